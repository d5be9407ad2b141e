"""Factors as 8-bit integers: one float32 scale per rank row, symmetric, zero stays zero.

A row is scaled by its largest number, so rows of different strength lose the same share. Smaller
groups gain 18 to 27% and cost bytes; cutting off a row's largest numbers gains nothing
(docs/quality.md has all of them measured).
"""

import torch
from jaxtyping import Float, Int8
from torch import Tensor

LEVELS = 127


def quantise(
    factor: Float[Tensor, "*lead d"],
) -> tuple[Int8[Tensor, "*lead d"], Float[Tensor, "*lead"]]:
    """Round each row to 255 levels; return the levels and the size of a step.

    Every number comes back within half a step.

    Raises:
        ValueError: a number is not finite; the levels would hide it.
    """
    wide = factor.float()
    least, largest = wide.aminmax(dim=-1)
    step = torch.maximum(-least, largest) / LEVELS
    if not bool(step.isfinite().all()):
        raise ValueError("a number is not finite, which int8 would hide")
    divisor = step.where(step > 0, 1.0)  # a row of zeros has no step
    levels = wide.div(divisor[..., None]).round_()
    return levels.clamp_(-LEVELS, LEVELS).to(torch.int8), step


def restore(levels: Int8[Tensor, "*lead d"], step: Float[Tensor, "*lead"]) -> Tensor:
    """Return the numbers that levels and steps stand for, in float32."""
    return levels.float() * step[..., None]
