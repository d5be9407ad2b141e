"""Reduction: the same update in fewer ranks, with the relative Frobenius error it costs.

`svd` is optimal: QR of both factors, then an SVD as small as the rank. Where the rank reaches
min(d_in, d_out) QR has nothing left to shrink and a randomised range finder (Halko, Martinsson,
Tropp 2011, algorithms 4.4 and 5.1) takes over. `top_k` keeps whole rank slices by |A_r| |B_r|.
Work is done in float32, and the reduced factors stay in it. The bias is never reduced.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors, adapter_bytes, require_no_bias
from video2lora_core.errors import UsageError

OVERSAMPLING = 8
POWER_ITERATIONS = 2

_HEADER_GROWTH_BYTES = 64  # more digits in a file's header at higher ranks


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reduced:
    """One module, reduced."""

    factors: Factors
    lost: float
    """Squared Frobenius norm of the difference, over all layers."""
    had: float
    """Squared Frobenius norm before."""


def svd(adapter: Adapter, *, rank: int, seed: int = 0) -> tuple[Adapter, float]:
    """Reduce to `rank` by truncated SVD of each layer's update; return it and the relative error.

    `seed` only matters where the randomised path is taken.
    """

    def reduce(f: Factors) -> Reduced:
        if _is_beyond_widths(f):
            return _svd_by_sketch(f, rank, torch.Generator(f.a.device).manual_seed(seed))
        return _svd_by_qr(f, rank)

    return _reduced("svd", adapter, rank, reduce)


def top_k(adapter: Adapter, *, rank: int) -> tuple[Adapter, float]:
    """Keep each layer's `rank` slices of largest |A_r| |B_r|, in their order."""

    def reduce(f: Factors) -> Reduced:
        sizes = f.a.norm(dim=-1) * f.b.norm(dim=-1)
        largest = sizes.argsort(dim=-1, descending=True, stable=True)[:, :rank]
        index = largest.sort(dim=-1).values[..., None]
        kept = Factors(a=f.a.take_along_dim(index, -2), b=f.b.take_along_dim(index, -2))
        return _measured(f, kept)

    return _reduced("top_k", adapter, rank, reduce)


def relative_error(exact: Adapter, approximation: Adapter) -> float:
    """Return |approximation - exact| / |exact| over all layers and modules, Frobenius norms.

    Both must be of one checkpoint, and neither with the bias.
    """
    require_no_bias("relative_error", [exact, approximation])
    wide, kept = exact.to(dtype=torch.float32), approximation.to(dtype=torch.float32)
    parts = [_measured(f, kept.factors[name]) for name, f in wide.factors.items()]
    lost, had = (math.fsum(getattr(part, of) for part in parts) for of in ("lost", "had"))
    return math.sqrt(lost / had) if had > 0 else 0.0


def needs_seed(adapter: Adapter, *, rank: int) -> bool:
    """Say whether `svd` to this rank takes the randomised path for some module."""
    factors = adapter.factors.values()
    return rank < adapter.rank and any(_is_beyond_widths(f) for f in factors)


def rank_within(adapter: Adapter, *, num_bytes: int, dtype: torch.dtype) -> int:
    """Return the largest rank at which the adapter's file is at most `num_bytes` long.

    Raises:
        UsageError: not even rank 1 fits.
    """
    widths = sum(f.a.shape[-1] + f.b.shape[-1] for f in adapter.factors.values())
    per_rank = len(adapter.layers) * widths * dtype.itemsize
    one = replace(
        adapter,
        factors={n: Factors(a=f.a[:, :1], b=f.b[:, :1]) for n, f in adapter.factors.items()},
    )
    header = len(adapter_bytes(one, dtype=dtype)) - per_rank + _HEADER_GROWTH_BYTES
    rank = (num_bytes - header) // per_rank
    if rank < 1:
        raise UsageError(
            f"rank_within: {num_bytes} bytes hold no rank (expected at least {header + per_rank}); "
            "give a larger budget"
        )
    return rank


def _is_beyond_widths(f: Factors) -> bool:
    return f.a.shape[-2] >= min(f.a.shape[-1], f.b.shape[-1])


def _reduced(
    where: str, adapter: Adapter, rank: int, reduce: Callable[[Factors], Reduced]
) -> tuple[Adapter, float]:
    require_no_bias(where, [adapter])
    if rank < 1:
        raise UsageError(f"{where}: rank is {rank}, expected at least 1; give a positive rank")
    if adapter.rank <= rank:
        return adapter, 0.0
    wide = adapter.to(dtype=torch.float32)
    parts = {name: reduce(factors) for name, factors in wide.factors.items()}
    lost = math.fsum(part.lost for part in parts.values())
    had = math.fsum(part.had for part in parts.values())
    reduced = replace(wide, factors={name: part.factors for name, part in parts.items()})
    return reduced, math.sqrt(lost / had) if had > 0 else 0.0


def _svd_by_qr(f: Factors, rank: int) -> Reduced:
    """Exact: B^T A = Q_b (R_b R_a^T) Q_a^T, and the core is only rank x rank."""
    q_a, r_a = torch.linalg.qr(f.a.mT)
    q_b, r_b = torch.linalg.qr(f.b.mT)
    u, s, vh = torch.linalg.svd(r_b @ r_a.mT)
    energy = s.double().square()
    kept = _balanced(q_b @ u, s, vh @ q_a.mT, rank)
    return Reduced(factors=kept, lost=energy[..., rank:].sum().item(), had=energy.sum().item())


def _svd_by_sketch(f: Factors, rank: int, generator: torch.Generator) -> Reduced:
    """Randomised: a basis Q of the update's range, then an SVD of the small Q^T B^T A."""
    d_in, d_out = f.a.shape[-1], f.b.shape[-1]
    width = min(rank + OVERSAMPLING, d_in, d_out)
    omega = torch.randn(d_in, width, generator=generator, device=f.a.device)
    q = torch.linalg.qr(f.b.mT @ (f.a @ omega)).Q
    for _ in range(POWER_ITERATIONS):
        q = torch.linalg.qr(f.a.mT @ (f.b @ q)).Q
        q = torch.linalg.qr(f.b.mT @ (f.a @ q)).Q
    u, s, vh = torch.linalg.svd((f.b @ q).mT @ f.a, full_matrices=False)
    return _measured(f, _balanced(q @ u, s, vh, rank))


def _balanced(u: Tensor, s: Tensor, vh: Tensor, rank: int) -> Factors:
    """The leading `rank` triplets as factors, each singular value shared evenly by A and B.

    A module narrower than `rank` has fewer triplets: zero rows keep all modules at one rank.
    """
    root = s[..., :rank].sqrt()[..., None]
    missing = (0, 0, 0, rank - root.shape[-2])
    a = torch.nn.functional.pad(root * vh[..., :rank, :], missing)
    b = torch.nn.functional.pad(root * u[..., :rank].mT, missing)
    return Factors(a=a, b=b)


def _measured(f: Factors, kept: Factors) -> Reduced:
    """Put what the kept factors lose beside them, by whichever way is cheaper."""
    rank, d_in, d_out = f.a.shape[-2], f.a.shape[-1], f.b.shape[-1]
    lost, had = [], []
    # One layer at a time: all dense updates together are as large as the model's weights.
    for a, b, kept_a, kept_b in zip(f.a, f.b, kept.a, kept.b, strict=True):
        if rank * (d_in + d_out) < d_in * d_out:
            lost.append(_squared_norm(torch.cat([a, kept_a]), torch.cat([b, -kept_b])))
            had.append(_squared_norm(a, b))
            continue
        update = b.mT @ a
        had.append(update.double().square().sum().item())
        lost.append((update - kept_b.mT @ kept_a).double().square().sum().item())
    return Reduced(factors=kept, lost=math.fsum(lost), had=math.fsum(had))


def _squared_norm(a: Tensor, b: Tensor) -> float:
    """|B^T A|^2 without forming it: the inner product of the factors' Gram matrices."""
    a, b = a.double(), b.double()  # in float32 a difference would drown in cancellation
    return ((a @ a.mT) * (b @ b.mT)).sum().clamp_min(0).item()
