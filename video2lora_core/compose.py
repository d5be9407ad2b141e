"""Composition: several adapters become one, in rank space.

The composition of adapters is the sum of their updates: ranks are concatenated, and coefficients
multiply B only. The bias is added exactly once, after everything else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from video2lora_core.adapter import Adapter, AdapterBatch, Factors, require_no_bias
from video2lora_core.errors import AdapterError, UsageError
from video2lora_core.reduction import svd, top_k

__all__ = ["batch_from_factors", "bias_only", "concat", "stack", "svd", "top_k", "with_bias"]


def concat(adapters: Sequence[Adapter], *, coefficients: Sequence[float] | None = None) -> Adapter:
    """Compose exactly: the update is sum_i coefficient_i * update_i (by default the plain sum).

    Raises:
        AdapterError: the adapters come of two checkpoints, cover different layers or modules, or
            contain the bias (which must be added once, afterwards).
    """
    _require_alike("concat", adapters)
    require_no_bias("concat", adapters)
    weights = [1.0] * len(adapters) if coefficients is None else list(coefficients)
    if len(weights) != len(adapters):
        raise UsageError(
            f"concat: {len(weights)} coefficients for {len(adapters)} adapters; give one for each"
        )
    factors = {
        name: Factors(
            a=torch.cat([adapter.factors[name].a for adapter in adapters], dim=-2),
            b=torch.cat(
                [w * adapter.factors[name].b for w, adapter in zip(weights, adapters, strict=True)],
                dim=-2,
            ),
        )
        for name in adapters[0].factors
    }
    return replace(adapters[0], factors=factors)


def with_bias(adapter: Adapter, bias: Mapping[str, Factors]) -> Adapter:
    """Add the checkpoint's bias: the last step before an adapter is injected.

    Raises:
        AdapterError: the adapter has its bias already, or the bias is of other shapes.
    """
    require_no_bias("with_bias", [adapter])
    expected, found = _outlines(adapter.factors), _outlines(bias)
    if found != expected:
        raise AdapterError(
            f"with_bias: (layers, d_in, d_out) by module are {found} in the bias, {expected} in "
            "the adapter; use the bias of the adapter's own checkpoint"
        )
    factors = {name: _joined(f, bias[name]) for name, f in adapter.factors.items()}
    return replace(adapter, factors=factors, has_bias=True)


def bias_only(
    bias: Mapping[str, Factors], *, layers: tuple[int, ...], scaling: float, checkpoint_sha256: str
) -> Adapter:
    """Make the adapter of no video at all: the bias alone."""
    return Adapter(
        factors=dict(bias),
        layers=layers,
        scaling=scaling,
        checkpoint_sha256=checkpoint_sha256,
        has_bias=True,
    )


def stack(adapters: Sequence[Adapter]) -> AdapterBatch:
    """Put adapters in the rows of a batch, the shorter ones zero-padded on the rank axis."""
    _require_alike("stack", adapters)
    if len({adapter.has_bias for adapter in adapters}) > 1:
        raise AdapterError("stack: only some adapters contain the bias; add it to each, or to none")
    rank = max(adapter.rank for adapter in adapters)
    factors = {
        name: Factors(
            a=torch.stack([_padded(adapter.factors[name].a, rank) for adapter in adapters]),
            b=torch.stack([_padded(adapter.factors[name].b, rank) for adapter in adapters]),
        )
        for name in adapters[0].factors
    }
    first = adapters[0]
    return AdapterBatch(
        factors=factors, layers=first.layers, scaling=first.scaling, has_bias=first.has_bias
    )


def batch_from_factors(
    factors: Mapping[str, Factors],
    *,
    groups: Sequence[Sequence[int]],
    layers: tuple[int, ...],
    scaling: float,
    bias: Mapping[str, Factors] | None,
) -> AdapterBatch:
    """Compose one batch row per group straight from a hypernetwork's output, differentiably.

    `factors` are [segment, layer, rank, d]; a group lists its segments. Each row is its segments'
    ranks, then the bias once (where given), then zeros up to the longest row.
    """
    num_segments, _, rank, _ = next(iter(factors.values())).a.shape
    _check_groups(groups, num_segments, has_bias=bias is not None)
    if bias is not None and any(f.a.shape[-2] != rank for f in bias.values()):
        raise AdapterError(
            f"batch_from_factors: the bias has another rank than {rank}; use "
            "the bias of the hypernetwork that made the factors"
        )
    slots = max(len(group) for group in groups) + (bias is not None)
    zero = num_segments + (bias is not None)  # the bias stands in the pool after the segments
    tail = [num_segments] if bias is not None else []
    rows = [[*group, *tail] for group in groups]
    index = torch.tensor([row + [zero] * (slots - len(row)) for row in rows])
    gathered = {
        name: Factors(
            a=_gather_ranks(f.a, None if bias is None else bias[name].a, index),
            b=_gather_ranks(f.b, None if bias is None else bias[name].b, index),
        )
        for name, f in factors.items()
    }
    return AdapterBatch(factors=gathered, layers=layers, scaling=scaling, has_bias=bias is not None)


def _check_groups(groups: Sequence[Sequence[int]], num_segments: int, *, has_bias: bool) -> None:
    members = [index for group in groups for index in group]
    is_filled = bool(groups) and (has_bias or all(groups))
    if not is_filled or not all(0 <= index < num_segments for index in members):
        raise UsageError(
            f"batch_from_factors: groups are {[list(group) for group in groups]}, expected lists "
            f"of segments 0 to {num_segments - 1}; an empty one needs a bias"
        )


def _gather_ranks(segments: Tensor, bias: Tensor | None, index: Tensor) -> Tensor:
    """[segment, layer, rank, d] and indices [row, slot] -> [row, layer, slot * rank, d]."""
    extra = [] if bias is None else [bias[None].to(segments.dtype)]
    pool = torch.cat([segments, *extra, torch.zeros_like(segments[:1])])
    chosen = pool.index_select(0, index.flatten().to(pool.device))
    return chosen.reshape(*index.shape, *pool.shape[1:]).transpose(1, 2).flatten(2, 3)


def _joined(first: Factors, second: Factors) -> Factors:
    """Concatenate two factors' ranks, on the first one's device and in the wider dtype."""
    return Factors(
        a=torch.cat([first.a, second.a.to(first.a.device)], dim=-2),
        b=torch.cat([first.b, second.b.to(first.b.device)], dim=-2),
    )


def _outlines(factors: Mapping[str, Factors]) -> dict[str, tuple[int, int, int]]:
    return {n: (f.a.shape[-3], f.a.shape[-1], f.b.shape[-1]) for n, f in sorted(factors.items())}


def _padded(factor: Tensor, rank: int) -> Tensor:
    return torch.nn.functional.pad(factor, (0, 0, 0, rank - factor.shape[-2]))


def _require_alike(where: str, adapters: Sequence[Adapter]) -> None:
    """Only adapters of one checkpoint, over the same layers and modules, may stand together."""
    if not adapters:
        raise UsageError(f"{where}: no adapters; give at least one")
    kinds = {
        "checkpoint_sha256": {adapter.checkpoint_sha256 for adapter in adapters},
        "layers": {str(adapter.layers) for adapter in adapters},
        "scaling": {str(adapter.scaling) for adapter in adapters},
        "modules": {str(sorted(adapter.factors)) for adapter in adapters},
    }
    for what, values in kinds.items():
        if len(values) > 1:
            raise AdapterError(
                f"{where}: adapters differ in {what} ({' vs '.join(sorted(values))}); "
                "combine only adapters of one checkpoint"
            )
