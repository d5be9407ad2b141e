"""Peak memory by counting: every tensor that a computation makes, until the last one goes.

A dispatch mode sees each operation's outputs; a storage counts from when it is first seen until
Python frees it. Nothing depends on an allocator, on the machine or on other processes, and on the
meta device a full-size model is counted without its memory or its time. Scratch space inside one
operation is not seen: no tensor stands for it. Tensors that were there before are not counted.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors made inside the `with` block."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes: int = 0
        self.peak_bytes: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._know(leaf, is_made_here=False)
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._know(leaf, is_made_here=True)
        return made

    def _know(self, tensor: Tensor, *, is_made_here: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        num_bytes = int(storage.nbytes()) if is_made_here else 0
        self.live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._forget, key, num_bytes)

    def _forget(self, key: int, num_bytes: int) -> None:
        self._known.discard(key)
        self.live_bytes -= num_bytes


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes that tensors made by `run` held at once, its result included."""
    with torch.no_grad(), PeakBytes() as counted:
        kept = run()
    del kept
    return int(counted.peak_bytes)
