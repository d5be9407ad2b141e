"""Slices of a rank: which are kept, and that nothing else changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.adapter_factory import SHA256
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.errors import AdapterError, UsageError
from video2lora_core.rank_slices import Choice, choose_slices
from video2lora_core.reduction import top_k

RANK = 6


def adapter(seed: int = 0, *, has_bias: bool = False) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(
            a=torch.randn(2, RANK, d_in, generator=generator),
            b=torch.randn(2, RANK, 5, generator=generator),
        )
        for name, d_in in (("down_proj", 7), ("q_proj", 5))
    }
    return Adapter(
        factors=factors, layers=(0, 1), scaling=2.0, checkpoint_sha256=SHA256, has_bias=has_bias
    )


def updates(given: Adapter) -> dict[str, torch.Tensor]:
    return {name: given.scaling * f.b.mT @ f.a for name, f in given.factors.items()}


def assert_same(found: Adapter, expected: Adapter) -> None:
    for name, factors in expected.factors.items():
        assert torch.equal(found.factors[name].a, factors.a)
        assert torch.equal(found.factors[name].b, factors.b)


@given(count=st.integers(1, RANK), seed=st.integers(0, 20))
def test_the_largest_slices_are_those_that_top_k_keeps(count: int, seed: int) -> None:
    whole = adapter(seed)
    assert_same(choose_slices(whole, "top-k", count=count), top_k(whole, rank=count)[0])


@given(count=st.integers(1, RANK - 1), seed=st.integers(0, 20))
def test_what_is_kept_and_what_is_taken_away_add_up_to_the_whole(count: int, seed: int) -> None:
    whole = adapter(seed)
    kept = updates(choose_slices(whole, "top-k", count=count))
    rest = updates(choose_slices(whole, "remove-top-k", count=count))
    for name, update in updates(whole).items():
        torch.testing.assert_close(kept[name] + rest[name], update)


@given(count=st.integers(1, RANK - 1), seed=st.integers(0, 20))
def test_without_the_largest_the_smallest_remain(count: int, seed: int) -> None:
    whole = adapter(seed)
    smallest = choose_slices(whole, "bottom-k", count=RANK - count)
    assert_same(choose_slices(whole, "remove-top-k", count=count), smallest)


def test_random_slices_are_slices_of_the_adapter_and_the_seed_decides_them() -> None:
    whole = adapter()
    found = choose_slices(whole, "random-k", count=3, seed=1)
    assert_same(choose_slices(whole, "random-k", count=3, seed=1), found)
    others = [choose_slices(whole, "random-k", count=3, seed=s) for s in range(2, 6)]
    first = found.factors["down_proj"].a
    assert any(not torch.equal(o.factors["down_proj"].a, first) for o in others)
    rows = {tuple(row) for row in whole.factors["down_proj"].a[0].tolist()}
    kept = {tuple(row) for row in first[0].tolist()}
    assert len(kept) == 3
    assert kept < rows


@pytest.mark.parametrize(("choice", "count"), [("top-k", 0), ("remove-top-k", 6)])
def test_a_choice_that_leaves_nothing_is_refused(choice: Choice, count: int) -> None:
    with pytest.raises(UsageError, match=r"choose_slices: .* at least one slice left"):
        choose_slices(adapter(), choice, count=count)


def test_the_bias_is_no_slice() -> None:
    with pytest.raises(AdapterError, match="contains the bias"):
        choose_slices(adapter(has_bias=True), "top-k", count=1)
