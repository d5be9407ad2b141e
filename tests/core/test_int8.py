"""Adapters as int8: how far a number moves, and that everything else works on what is read back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tests.core.adapter_factory import DOWN, random_adapter, random_bias, updates
from video2lora_core.adapter import Adapter, Factors, adapter_bytes, adapter_from_bytes
from video2lora_core.compose import concat, with_bias
from video2lora_core.errors import AdapterError
from video2lora_core.int8 import quantise, restore
from video2lora_core.reduction import svd
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def through_int8(adapter: Adapter) -> Adapter:
    return adapter_from_bytes(adapter_bytes(adapter, dtype=torch.int8))


@given(st.lists(st.lists(finite, min_size=4, max_size=4), min_size=1, max_size=5))
def test_every_number_comes_back_within_half_a_step_of_its_row(rows):
    factor = torch.tensor(rows)
    levels, step = quantise(factor)
    assert levels.dtype == torch.int8
    moved = (restore(levels, step).double() - factor.double()).abs()
    # float32 has no numbers between the least one and zero: there the step itself is rounded.
    slack = 1e-6 * factor.double().abs().amax(-1, keepdim=True) + 127 * 1.5e-45
    assert bool((moved <= step.double()[..., None] / 2 + slack).all())


def test_a_row_of_zeros_stays_zero_and_signs_stay_signs():
    factor = torch.tensor([[0.0, 0.0, 0.0], [-2.0, 0.0, 2.0]])
    levels, step = quantise(factor)
    assert levels.tolist() == [[0, 0, 0], [-127, 0, 127]]
    assert torch.equal(restore(levels, step), factor)


def test_rows_of_different_strength_lose_the_same_share():
    factor = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    factor[1] = factor[0] * 2.0**-20
    back = restore(*quantise(factor))
    assert torch.equal(back[1], back[0] * 2.0**-20)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_refused_and_not_hidden(bad):
    adapter = random_adapter()
    adapter.factors["gate_proj"].b[1, 2, 3] = bad
    with pytest.raises(AdapterError, match=r"adapter_bytes: gate_proj\.B: a number is not finite"):
        adapter_bytes(adapter, dtype=torch.int8)


def test_the_file_is_plain_safetensors_with_a_scale_per_rank_row(tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(random_adapter(modules=(DOWN,)), dtype=torch.int8))
    with safe_open(path, "pt") as file:
        assert file.get_slice("down_proj.A").get_dtype() == "I8"
        assert file.get_slice("down_proj.A").get_shape() == [2, 3, 24]
        assert file.get_slice("down_proj.A.scale").get_dtype() == "F32"
        assert file.get_slice("down_proj.A.scale").get_shape() == [2, 3]
        assert file.metadata()["format_version"] == "2"
        assert file.metadata()["rank"] == "3"


def test_a_segment_adapter_of_the_published_shape_takes_half_the_bytes():
    a, b = torch.ones(32, 16, 2560), torch.zeros(32, 16, 960)
    adapter = Adapter(
        factors={"down_proj": Factors(a=a, b=b)},
        layers=tuple(range(32)),
        scaling=128.0,
        checkpoint_sha256="a" * 64,
    )
    sizes = [len(adapter_bytes(adapter, dtype=dtype)) for dtype in (torch.int8, torch.bfloat16)]
    assert sizes[0] == pytest.approx(32 * 16 * (2560 + 960 + 2 * 4), abs=1024)
    assert sizes[0] / sizes[1] < 0.502


def relative_errors(found: Adapter, expected: Adapter) -> list[float]:
    exact = updates(expected)
    return [
        float((update - exact[name]).norm() / exact[name].norm())
        for name, update in updates(found).items()
    ]


def test_an_update_moves_by_about_a_hundredth():
    adapter = random_adapter(seed=3)
    read = through_int8(adapter)
    assert all(f.a.dtype == torch.float32 for f in read.factors.values())
    assert (read.layers, read.scaling, read.rank) == (adapter.layers, adapter.scaling, 3)
    assert 0 < max(relative_errors(read, adapter)) < 0.02


def test_what_was_int8_composes_reduces_and_takes_the_bias_like_any_adapter():
    parts = [random_adapter(seed=seed, modules=(DOWN,)) for seed in (1, 2)]
    read = [through_int8(part) for part in parts]
    mixed = concat([read[0], parts[1]], coefficients=[1.0, -0.5])
    exact = updates(read[0])["down_proj"] - 0.5 * updates(parts[1])["down_proj"]
    torch.testing.assert_close(updates(mixed)["down_proj"], exact)
    reduced, _ = svd(concat(read), rank=6)
    torch.testing.assert_close(updates(reduced), updates(concat(read)), atol=1e-4, rtol=1e-4)
    assert with_bias(mixed, random_bias(mixed)).has_bias


def test_written_again_it_changes_by_rounding_of_the_scales_only():
    read = through_int8(random_adapter())
    again = through_int8(read)
    for name, factors in read.factors.items():
        torch.testing.assert_close(again.factors[name].a, factors.a, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda t: t.pop("down_proj.A.scale"),
        lambda t: t.update({"down_proj.A.scale": torch.ones(2, 4)}),
        lambda t: t.update({"down_proj.A.scale": torch.ones(2, 3, dtype=torch.float64)}),
        lambda t: t.update({"down_proj.B": t["down_proj.B"].float()}),
        lambda t: t.update({"other.scale": torch.ones(2, 3)}),
    ],
)
def test_scales_that_do_not_fit_their_tensors_are_refused(damage):
    data = adapter_bytes(random_adapter(modules=(DOWN,)), dtype=torch.int8)
    tensors, metadata = read_tensor_bytes(data)
    damage(tensors)
    with pytest.raises(AdapterError, match="int8 tensors and scales are"):
        adapter_from_bytes(tensor_bytes(tensors, metadata=metadata))
