"""Slices of a rank: an adapter with only some of its ranks, to see which of them carry the answer.

A slice is one rank of one layer's update, B_r^T A_r; its size is |A_r| |B_r|, as in `top_k`. The
slices of each layer and module are ordered by themselves. Nothing is rescaled.
"""

from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors, require_no_bias
from video2lora_core.errors import UsageError

Choice = Literal["top-k", "bottom-k", "random-k", "remove-top-k"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


def choose_slices(adapter: Adapter, choice: Choice, *, count: int, seed: int = 0) -> Adapter:
    """Return the adapter with some slices only; the others are left out, the order is kept.

    Args:
        adapter: without the bias.
        choice: `top-k` keeps the `count` largest, `bottom-k` the smallest, `random-k` any;
            `remove-top-k` keeps all but the largest.
        count: from 1 to the rank; `remove-top-k` must leave one.
        seed: decides what `random-k` keeps.

    Raises:
        UsageError: the count leaves nothing, or is beyond the rank.
    """
    require_no_bias("choose_slices", [adapter])
    num_kept = adapter.rank - count if choice == "remove-top-k" else count
    if choice not in CHOICES or count < 1 or not 1 <= num_kept <= adapter.rank:
        raise UsageError(
            f"choose_slices: {choice} of {count} slices of rank {adapter.rank} (expected one of "
            f"{', '.join(CHOICES)}, and at least one slice left); give another count"
        )
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: _kept(f, _order(f, choice, generator)[..., :num_kept])
        for name, f in sorted(adapter.factors.items())
    }
    return replace(adapter, factors=factors)


def _order(f: Factors, choice: Choice, generator: torch.Generator) -> Tensor:
    """Order each layer's slices [layer, rank] so that those to keep come first."""
    sizes = f.a.float().norm(dim=-1) * f.b.float().norm(dim=-1)
    if choice == "random-k":
        sizes = torch.rand(sizes.shape, generator=generator).to(sizes.device)
    order: Tensor = sizes.argsort(dim=-1, descending=choice == "top-k", stable=True)
    return order


def _kept(f: Factors, chosen: Tensor) -> Factors:
    index = chosen.sort(dim=-1).values[..., None]
    return Factors(a=f.a.take_along_dim(index, -2), b=f.b.take_along_dim(index, -2))
