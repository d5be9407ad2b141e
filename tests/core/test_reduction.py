"""Reduction: optimal where exact, near-optimal where randomised, errors truly measured."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.adapter_factory import DOWN, GATE, QUERY, random_adapter, random_bias, updates
from video2lora_core.adapter import Factors, adapter_bytes
from video2lora_core.compose import concat, svd, top_k, with_bias
from video2lora_core.errors import AdapterError, UsageError
from video2lora_core.reduction import needs_seed, rank_within, relative_error


def true_error(adapter, reduced):
    """|reduced - adapter| / |adapter| over all modules and layers, from dense updates."""
    ours, exact = updates(reduced), updates(adapter)
    lost = sum((ours[name] - exact[name]).square().sum() for name in exact)
    return (lost / sum(update.square().sum() for update in exact.values())).sqrt().item()


def optimal_error(adapter, rank):
    """What Eckart and Young say is the least possible, layer by layer."""
    spectra = [torch.linalg.svdvals(update).square() for update in updates(adapter).values()]
    lost = sum(s[:, rank:].sum() for s in spectra)
    return (lost / sum(s.sum() for s in spectra)).sqrt().item()


def correlated(num_segments, *, rank=4, noise=0.02, modules=(DOWN, QUERY)):
    """Adapters that share directions, as those of one hypernetwork do."""
    shared = random_adapter(0, rank=rank, modules=modules)
    made = []
    for seed in range(1, num_segments + 1):
        own = random_adapter(seed, rank=rank, modules=modules)
        factors = {
            name: Factors(a=f.a + noise * own.factors[name].a, b=f.b + noise * own.factors[name].b)
            for name, f in shared.factors.items()
        }
        made.append(replace(own, factors=factors))
    return concat(made)


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(2, 15), st.data())
def test_svd_by_qr_is_optimal_and_reports_its_true_error(seed, rank, data):
    adapter = random_adapter(seed, rank=rank, modules=(DOWN, GATE, QUERY))
    kept = data.draw(st.integers(1, rank - 1))
    reduced, error = svd(adapter, rank=kept)
    assert reduced.rank == kept
    assert error == pytest.approx(true_error(adapter, reduced), abs=1e-5)
    assert error == pytest.approx(optimal_error(adapter, kept), abs=1e-5)


@pytest.mark.parametrize("kept", [4, 8, 12])
def test_the_randomised_path_is_near_optimal_and_reports_its_true_error(kept):
    adapter = correlated(8)  # rank 32, wider than 16
    reduced, error = svd(adapter, rank=kept)
    assert reduced.rank == kept
    assert error == pytest.approx(true_error(adapter, reduced), abs=1e-5)
    assert error <= 1.02 * optimal_error(adapter, kept) + 1e-5


def test_the_randomised_path_repeats_with_its_seed():
    adapter = correlated(8)
    first, second, other = (svd(adapter, rank=2, seed=seed)[0] for seed in (1, 1, 2))
    a = [x.factors["down_proj"].a for x in (first, second, other)]
    assert torch.equal(a[0], a[1])
    assert not torch.equal(a[0], a[2])


def test_a_rank_beyond_the_widths_keeps_everything():
    adapter = correlated(8, noise=1.0)  # rank 32; q_proj is 16 x 16, down_proj 16 x 24
    reduced, error = svd(adapter, rank=20)
    assert reduced.rank == 20
    assert error < 1e-5
    assert true_error(adapter, reduced) < 1e-5


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(2, 30), st.data())
def test_top_k_keeps_the_largest_slices_of_each_layer_in_their_order(seed, rank, data):
    adapter = random_adapter(seed, rank=rank, modules=(DOWN,))
    kept = data.draw(st.integers(1, rank - 1))
    reduced, error = top_k(adapter, rank=kept)
    f, r = adapter.factors["down_proj"], reduced.factors["down_proj"]
    for layer in range(2):
        sizes = [(f.a[layer, i].norm() * f.b[layer, i].norm()).item() for i in range(rank)]
        best = sorted(sorted(range(rank), key=lambda i: -sizes[i])[:kept])
        assert torch.equal(r.a[layer], f.a[layer][best])
        assert torch.equal(r.b[layer], f.b[layer][best])
    assert error == pytest.approx(true_error(adapter, reduced), abs=1e-5)


def test_keeping_all_ranks_changes_nothing():
    adapter = random_adapter(rank=3)
    for reduce in (svd, top_k):
        assert reduce(adapter, rank=3) == (adapter, 0.0)
        assert reduce(adapter, rank=9) == (adapter, 0.0)


def test_an_update_of_zero_is_reduced_without_error():
    adapter = random_adapter(rank=4)
    zero = concat([adapter], coefficients=[0.0])
    assert svd(zero, rank=2)[1] == top_k(zero, rank=2)[1] == 0.0


def test_bf16_adapters_are_reduced_in_float32():
    reduced, _ = svd(random_adapter(rank=4).to(dtype=torch.bfloat16), rank=2)
    assert reduced.factors["down_proj"].a.dtype == torch.float32


def test_the_bias_is_never_part_of_what_is_reduced():
    adapter = random_adapter()
    for reduce in (svd, top_k):
        with pytest.raises(AdapterError, match="compose and reduce first, add the bias last"):
            reduce(with_bias(adapter, random_bias(adapter)), rank=2)


def test_a_rank_below_one_is_refused():
    with pytest.raises(UsageError, match="svd: rank is 0"):
        svd(random_adapter(), rank=0)


@pytest.mark.parametrize("num_segments", [1, 3])
def test_svd_is_optimal_in_every_layer_and_not_only_in_total(num_segments):
    adapter = concat(
        [random_adapter(seed, rank=4, modules=(DOWN,)) for seed in range(num_segments)]
    )
    kept = adapter.rank // 2
    reduced, _ = svd(adapter, rank=kept)
    ours, exact = updates(reduced)["down_proj"], updates(adapter)["down_proj"]
    for layer, update in enumerate(exact):
        spectrum = torch.linalg.svdvals(update)
        found = (ours[layer] - update).norm() / update.norm()
        assert found.item() == pytest.approx(
            (spectrum[kept:].norm() / spectrum.norm()).item(), abs=1e-5
        )


@pytest.mark.parametrize("kept", [1, 4, 8, 12, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_randomised_path_is_near_optimal_for_unrelated_adapters_too(kept, seed):
    """Without shared directions the spectrum is flat: the hardest case for a random sketch."""
    adapter = concat([random_adapter(10 * seed + i, rank=4, modules=(DOWN,)) for i in range(8)])
    assert needs_seed(adapter, rank=kept)
    _, error = svd(adapter, rank=kept, seed=seed)
    assert error <= 1.05 * optimal_error(adapter, kept)


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 12))
def test_the_relative_error_is_that_of_the_dense_updates(seed, rank, other_rank):
    exact = random_adapter(seed, rank=rank, modules=(DOWN, QUERY))
    other = random_adapter(seed + 100, rank=other_rank, modules=(DOWN, QUERY))
    near = concat([exact, other], coefficients=[1.0, 0.01])
    assert relative_error(exact, near) == pytest.approx(true_error(exact, near), rel=1e-4)
    assert relative_error(exact, exact) < 1e-6


def test_the_seed_matters_only_beyond_the_widths():
    assert not needs_seed(random_adapter(rank=15), rank=4)
    assert needs_seed(random_adapter(rank=16), rank=4)
    assert not needs_seed(random_adapter(rank=16), rank=16)


@given(st.integers(2_000, 60_000), st.sampled_from([torch.float32, torch.bfloat16]))
def test_a_byte_budget_is_the_largest_rank_whose_file_fits(num_bytes, dtype):
    adapter = concat([random_adapter(seed, rank=8) for seed in range(40)])
    rank = rank_within(adapter, num_bytes=num_bytes, dtype=dtype)
    size = len(adapter_bytes(top_k(adapter, rank=min(rank, adapter.rank))[0], dtype=dtype))
    assert size <= num_bytes
    larger = len(adapter_bytes(top_k(adapter, rank=min(rank + 2, adapter.rank))[0], dtype=dtype))
    assert larger > num_bytes or rank + 2 > adapter.rank


def test_a_budget_without_room_for_one_rank_is_refused():
    with pytest.raises(UsageError, match="hold no rank"):
        rank_within(random_adapter(), num_bytes=100, dtype=torch.float32)
