"""The processes that train one model together: one per device, through accelerate.

Batches are numbered over all processes and a batch is a function of its number alone, so the
processes share nothing but gradients and figures: their means are taken after the backward pass.
Every process begins with the same parameters (the same seed, or the same saved state), makes the
same step with the same gradients, and so keeps the same parameters. No module is wrapped: the
stages call the hypernetwork layer by layer, and a wrapper would see only calls of `forward`.
"""

import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Team(Protocol):
    """What the loop needs of the processes that train together."""

    rank: int
    """This process's number, from 0; 0 writes the files."""
    size: int
    """How many processes there are."""

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes, in place."""

    def wait(self) -> None:
        """Return when every process has come here."""


class Alone:
    """One process: nothing to share."""

    rank = 0
    size = 1

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Leave the tensors as they are: the mean of one."""

    def wait(self) -> None:
        """Return at once."""


class Accelerated:
    """The processes that `accelerate launch` or `torchrun` started."""

    def __init__(self, accelerator: Any) -> None:
        """Take part through an accelerate.Accelerator."""
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.size: int = accelerator.num_processes

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes: one exchange for all of them."""
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        mean = self._accelerator.reduce(flat.to(self._accelerator.device), reduction="mean")
        parts = mean.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Return when every process has come here."""
        self._accelerator.wait_for_everyone()


def join_team(*, is_cpu: bool) -> Team:
    """Join the processes that were started together; without any, train alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Alone()
    from accelerate import Accelerator

    return Accelerated(Accelerator(cpu=is_cpu))
