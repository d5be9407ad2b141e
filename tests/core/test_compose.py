"""Composition is the sum of updates; the bias is in it exactly once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.adapter_factory import (
    DOWN,
    GATE,
    QUERY,
    config_of,
    random_adapter,
    random_bias,
    random_hypernetwork,
    updates,
)
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.compose import batch_from_factors, bias_only, concat, stack, with_bias
from video2lora_core.errors import AdapterError, UsageError

shapes = st.fixed_dictionaries(
    {
        "layers": st.sampled_from([(0,), (1, 4), (0, 1, 2)]),
        "modules": st.sampled_from([(DOWN,), (DOWN, GATE, QUERY)]),
    }
)
ranks = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def assert_same_update(adapter: Adapter, expected: dict[str, torch.Tensor]) -> None:
    for name, update in updates(adapter).items():
        torch.testing.assert_close(update, expected[name], atol=1e-4, rtol=1e-5)


def total(adapters, coefficients):
    return {
        name: sum(c * updates(a)[name] for c, a in zip(coefficients, adapters, strict=True))
        for name in adapters[0].factors
    }


@settings(max_examples=25)
@given(shapes, ranks, st.data())
def test_a_composition_is_the_sum_of_its_updates(shape, ranks, data):
    adapters = [random_adapter(i, rank=rank, **shape) for i, rank in enumerate(ranks)]
    coefficient = st.floats(-2, 2)
    given_coefficients = data.draw(
        st.none() | st.lists(coefficient, min_size=len(ranks), max_size=len(ranks))
    )
    composed = concat(adapters, coefficients=given_coefficients)
    assert composed.rank == sum(ranks)
    assert_same_update(composed, total(adapters, given_coefficients or [1.0] * len(ranks)))


@given(shapes, st.permutations(range(4)), st.integers(1, 3))
def test_composition_is_associative_and_its_order_does_not_matter(shape, order, cut):
    adapters = [random_adapter(i, **shape) for i in range(4)]
    left = concat([concat(adapters[:cut]), concat(adapters[cut:])])
    flat = concat(adapters)
    for name, factors in flat.factors.items():
        assert torch.equal(left.factors[name].a, factors.a)
        assert torch.equal(left.factors[name].b, factors.b)
    assert_same_update(concat([adapters[i] for i in order]), updates(flat))


def test_coefficients_multiply_b_only():
    adapter = random_adapter()
    halved = concat([adapter], coefficients=[0.5])
    assert torch.equal(halved.factors["down_proj"].a, adapter.factors["down_proj"].a)
    assert torch.equal(halved.factors["down_proj"].b, 0.5 * adapter.factors["down_proj"].b)


@given(ranks)
def test_the_bias_enters_exactly_once_however_many_segments(ranks):
    adapters = [random_adapter(i, rank=rank) for i, rank in enumerate(ranks)]
    bias = random_bias(adapters[0])
    ready = with_bias(concat(adapters), bias)
    assert ready.has_bias
    assert ready.rank == sum(ranks) + 2
    alone = bias_only(bias, layers=(0, 2), scaling=4.0, checkpoint_sha256="a" * 64)
    assert_same_update(ready, total([*adapters, alone], [1.0] * (len(ranks) + 1)))


def test_a_float32_bias_is_not_rounded_by_a_bf16_adapter():
    adapter = random_adapter().to(dtype=torch.bfloat16)
    bias = random_bias(adapter)
    ready = with_bias(adapter, bias).factors["down_proj"]
    assert torch.equal(ready.b[:, -2:], bias["down_proj"].b)


def test_a_second_bias_is_refused_everywhere():
    adapter = random_adapter()
    bias = random_bias(adapter)
    ready = with_bias(adapter, bias)
    with pytest.raises(AdapterError, match=r"with_bias: .*exactly once"):
        with_bias(ready, bias)
    with pytest.raises(AdapterError, match=r"concat: .*exactly once"):
        concat([adapter, ready])
    with pytest.raises(AdapterError, match="stack: only some adapters contain the bias"):
        stack([adapter, ready])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (random_adapter(sha256="b" * 64), "checkpoint_sha256"),
        (random_adapter(layers=(0, 3)), "layers"),
        (random_adapter(scaling=8.0), "scaling"),
        (random_adapter(modules=(DOWN,)), "modules"),
    ],
)
def test_adapters_of_different_kinds_are_refused(changed, what):
    for combine in (concat, stack):
        with pytest.raises(AdapterError, match=f"adapters differ in {what}"):
            combine([random_adapter(), changed])


def test_nothing_to_compose_and_missing_coefficients_are_refused():
    with pytest.raises(UsageError, match="concat: no adapters"):
        concat([])
    with pytest.raises(UsageError, match="1 coefficients for 2 adapters"):
        concat([random_adapter(), random_adapter()], coefficients=[1.0])


def test_the_bias_of_another_shape_is_refused():
    adapter = random_adapter(modules=(DOWN,))
    with pytest.raises(AdapterError, match="use the bias of the adapter's own checkpoint"):
        with_bias(adapter, random_bias(random_adapter(modules=(DOWN, GATE))))
    with pytest.raises(AdapterError, match="use the bias of the adapter's own checkpoint"):
        with_bias(adapter, random_bias(random_adapter(modules=(DOWN,), layers=(0, 1, 2))))


def test_a_stack_pads_with_ranks_that_do_nothing():
    adapters = [random_adapter(0, rank=1), random_adapter(1, rank=4)]
    batch = stack(adapters)
    assert (batch.num_rows, batch.rank, batch.has_bias) == (2, 4, False)
    for row, adapter in enumerate(adapters):
        alone = replace(adapter, factors=row_of(batch.factors, row))
        assert_same_update(alone, updates(adapter))
        assert alone.factors["down_proj"].a[:, adapter.rank :].count_nonzero() == 0


def row_of(factors, row):
    return {name: Factors(a=f.a[row], b=f.b[row]) for name, f in factors.items()}


@pytest.fixture(scope="module")
def hypernetwork():
    return random_hypernetwork(config_of(modules=(DOWN, QUERY)))


groups_of_four = st.lists(
    st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=3
)


@settings(max_examples=15)
@given(st.booleans(), groups_of_four)
def test_a_batch_from_raw_factors_equals_the_stack_of_compositions(
    hypernetwork, with_the_bias, groups
):
    config = hypernetwork.config
    with torch.no_grad():
        raw = hypernetwork(torch.randn(4, 3, 2, 16))
        bias = hypernetwork.bias_factors() if with_the_bias else None
        batch = batch_from_factors(
            raw, groups=groups, layers=config.layers, scaling=config.scaling, bias=bias
        )
        segments = [
            Adapter(
                factors=row_of(raw, segment),
                layers=config.layers,
                scaling=config.scaling,
                checkpoint_sha256="",
            )
            for segment in range(4)
        ]
        composed = [concat([segments[i] for i in group]) for group in groups]
        expected = stack([with_bias(c, bias) for c in composed] if bias else composed)
    assert batch.has_bias == expected.has_bias == with_the_bias
    for name, factors in expected.factors.items():
        assert torch.equal(batch.factors[name].a, factors.a)
        assert torch.equal(batch.factors[name].b, factors.b)


def test_a_batch_from_raw_factors_carries_gradients_to_segments_and_bias():
    config = config_of()
    hypernetwork = random_hypernetwork(config)
    raw = hypernetwork(torch.randn(3, 3, 2, 16))
    batch = batch_from_factors(
        raw,
        groups=[[0, 1], []],
        layers=config.layers,
        scaling=config.scaling,
        bias=hypernetwork.bias_factors(),
    )
    batch.factors["down_proj"].b.square().sum().backward()
    bias = hypernetwork.bias_B["down_proj"]
    torch.testing.assert_close(bias.grad, 2 * 2 * bias.detach())  # once in each of two rows
    assert hypernetwork.head.weight.grad.count_nonzero() > 0


@pytest.mark.parametrize("groups", [[], [[]], [[0], []], [[3]], [[-1]]])
def test_groups_that_name_no_segment_are_refused(groups):
    raw = {"down_proj": Factors(a=torch.zeros(3, 1, 2, 4), b=torch.zeros(3, 1, 2, 4))}
    with pytest.raises(UsageError, match="lists of segments 0 to 2"):
        batch_from_factors(raw, groups=groups, layers=(0,), scaling=1.0, bias=None)


def test_a_bias_of_another_rank_is_refused():
    raw = {"down_proj": Factors(a=torch.zeros(3, 1, 2, 4), b=torch.zeros(3, 1, 2, 4))}
    bias = {"down_proj": Factors(a=torch.zeros(1, 1, 4), b=torch.zeros(1, 1, 4))}
    with pytest.raises(AdapterError, match="another rank than 2"):
        batch_from_factors(raw, groups=[[0]], layers=(0,), scaling=1.0, bias=bias)
