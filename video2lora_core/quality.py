"""The quality gate: is an adapter finite, and are its norms what its checkpoint's usually are?

A figure is the natural logarithm of one Frobenius norm: of A, of B and of the update
scaling * B^T A, for each target module and decoder layer. Bounds are learned on validation
segments and live with the checkpoint. They look for faults (a device that computes wrong, a damaged
hypernetwork), not for unusual content, so they are wide, and wider downwards: a segment that shows
next to nothing makes a weak adapter, which does no harm to a sum; a strong one drowns the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from video2lora_core.adapter import Adapter
from video2lora_core.errors import CheckpointError, Reason, UsageError

MIN_SEGMENTS = 32
"""Fewer say too little about the tails."""

# Norms are skewed and have several peaks, one per kind of picture: the middle 99% and not a
# deviation from the median. Measured on the embedded default: docs/quality.md.
_TAIL_PER_MILLE = 5
_ROOM_BELOW = math.log(8.0)
_ROOM_ABOVE = math.log(2.0)

# What the narrowest stored type can hold: the verdict must not depend on the stored type.
_LARGEST = torch.finfo(torch.bfloat16).max

_SHOWN = 3

Squares = Mapping[str, Float[Tensor, "layer"]]
"""Squared norms, layer by layer, by `<module>.<A, B or update>`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Where a figure must lie, both ends inclusive."""

    lower: float
    upper: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityBounds:
    """Bounds of one checkpoint's adapters."""

    log_norms: Mapping[str, Bound]
    """By figure, as `log_norms` names it: `<module>.<layer>.<A, B or update>`."""
    num_segments: int
    """Validation segments that they were learned on."""


def check(
    adapter: Adapter, bounds: QualityBounds | None, squares: Squares
) -> tuple[Reason, str] | None:
    """Say what is wrong with a segment adapter, given its squared norms; None where nothing is.

    Without bounds only finiteness is checked. Bounds must name exactly the adapter's figures.
    """
    broken = _not_finite(adapter, squares)
    if broken:
        return Reason.NON_FINITE, f"factors are not finite numbers: {_listed(broken)}"
    if bounds is None:
        return None
    figures = log_norms(adapter.layers, squares)
    assert set(figures) == set(bounds.log_norms), "bounds of another checkpoint: checked at loading"
    outside = [
        f"{name} {figure:.2f} (bounds {bound.lower:.2f} to {bound.upper:.2f})"
        for name, figure in figures.items()
        for bound in [bounds.log_norms[name]]
        if not bound.lower <= figure <= bound.upper
    ]
    if outside:
        return Reason.NORM_OUTLIER, f"log norms out of bounds: {_listed(outside)}"
    return None


def squared_norms(adapter: Adapter) -> Squares:
    """Return the squared Frobenius norms of A, B and the update, without building any update."""
    squares = {}
    for module, factors in adapter.factors.items():
        gram_a, gram_b = _gram(factors.a), _gram(factors.b)
        squares[f"{module}.A"] = gram_a.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        squares[f"{module}.B"] = gram_b.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        update = (gram_a * gram_b).sum(dim=(-2, -1)).clamp_min(0)  # below zero only by rounding
        squares[f"{module}.update"] = adapter.scaling**2 * update
    return squares


def log_norms(layers: Sequence[int], squares: Squares) -> dict[str, float]:
    """Return every figure of an adapter; -inf for a norm of zero."""
    return {
        f"{module}.{layer}.{what}": math.log(square) / 2 if square > 0 else -math.inf
        for name, by_layer in squares.items()
        for module, _, what in [name.rpartition(".")]
        for layer, square in zip(layers, by_layer.tolist(), strict=True)
    }


def learn_bounds(figures: Sequence[Mapping[str, float]]) -> QualityBounds:
    """Learn bounds from the figures of validation segments, one mapping per segment.

    A bound is the middle 99% of the segments, from an eighth of its lower end to twice its upper
    end: of 256 segments, one that is wrong moves nothing.

    Raises:
        UsageError: there are fewer than `MIN_SEGMENTS`, or a figure is not finite.
    """
    if len(figures) < MIN_SEGMENTS:
        raise UsageError(
            f"learn_bounds: {len(figures)} segments (expected at least {MIN_SEGMENTS}); "
            "give more validation videos"
        )
    wrong = sorted({name for one in figures for name, v in one.items() if not math.isfinite(v)})
    if wrong:
        raise UsageError(
            f"learn_bounds: {_listed(wrong)} not finite or zero in a validation segment; "
            "use a trained checkpoint, and leave broken adapters out"
        )
    bounds = {name: _bound([one[name] for one in figures]) for name in figures[0]}
    return QualityBounds(log_norms=bounds, num_segments=len(figures))


def bounds_as_json(bounds: QualityBounds) -> dict[str, Any]:
    """Return bounds as plain JSON, rounded outwards to four digits."""
    ends = {
        name: [math.floor(b.lower * 1e4) / 1e4, math.ceil(b.upper * 1e4) / 1e4]
        for name, b in bounds.log_norms.items()
    }
    return {"num_segments": bounds.num_segments, "log_norms": ends}


def bounds_from_json(content: Any, *, expected: set[str], where: str) -> QualityBounds:
    """Read what `bounds_as_json` made; `expected` are the figures of the checkpoint's adapters.

    Raises:
        CheckpointError: the content is damaged, or bounds of other adapters.
    """
    try:
        bounds = QualityBounds(
            log_norms={
                name: Bound(lower=float(lower), upper=float(upper))
                for name, (lower, upper) in content["log_norms"].items()
            },
            num_segments=int(content["num_segments"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: its bounds cannot be read ({error!r}); run `video2lora calibrate` again"
        ) from error
    if set(bounds.log_norms) != expected:
        raise CheckpointError(
            f"{where}: its bounds are for {_listed(sorted(bounds.log_norms))} (expected "
            f"{_listed(sorted(expected))}); run `video2lora calibrate` again"
        )
    return bounds


def _bound(values: list[float]) -> Bound:
    cuts = quantiles(values, n=1000 // _TAIL_PER_MILLE, method="inclusive")
    return Bound(lower=cuts[0] - _ROOM_BELOW, upper=cuts[-1] + _ROOM_ABOVE)


def _gram(factor: Tensor) -> Tensor:
    """Inner products of a factor's rank rows, float64; its squares never overflow."""
    gram = factor.float() @ factor.float().mT  # a tenth of the time of float64
    if not bool(gram.isfinite().all()):
        gram = factor.double() @ factor.double().mT
    return gram.double()


def _not_finite(adapter: Adapter, squares: Squares) -> list[str]:
    """List the factors that hold numbers which are none, or are beyond every stored type."""
    found = []
    for module, factors in adapter.factors.items():
        for what, factor in (("A", factors.a), ("B", factors.b)):
            # No number of a tensor is larger than its norm: most need no second look.
            if bool((squares[f"{module}.{what}"] <= _LARGEST).all()):
                continue
            wrong = (~(factor.abs() <= _LARGEST)).flatten(1).sum(dim=1).tolist()
            found += [
                f"{module}.{layer}.{what} ({count} of {factor[0].numel()})"
                for layer, count in zip(adapter.layers, wrong, strict=True)
                if count
            ]
    return found


def _listed(items: Sequence[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more
