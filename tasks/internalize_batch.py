"""One device batch: segments in, each one's adapter or the reason why there is none."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from storage.schemas import Row
from tasks.meet_video import Reject
from tasks.models import LoadedModel
from tasks.recipe import Recipe
from video2lora_core.adapter import Adapter, adapter_bytes
from video2lora_core.errors import Reason
from video2lora_core.frames import SegmentFrames
from video2lora_core.internalize import internalize

logger = logging.getLogger(__name__)

StoredDtype = Literal["bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeAdapter:
    """An adapter as it goes to the lake."""

    data: bytes
    """The file's bytes."""
    columns: Row
    """What the catalog says about it, the segment aside."""


def internalize_batch(
    model: LoadedModel,
    recipe: Recipe,
    batch: Sequence[SegmentFrames],
    *,
    stored_dtype: StoredDtype,
) -> list[MadeAdapter | Reject]:
    """Make one adapter per segment; segments of any videos may stand in one batch."""
    started = time.perf_counter()
    made = _halving(model, batch)
    device_s = (time.perf_counter() - started) / len(batch)
    return [
        outcome
        if isinstance(outcome, Reject)
        else _checked(outcome, frames, model, recipe, stored_dtype=stored_dtype, device_s=device_s)
        for outcome, frames in zip(made, batch, strict=True)
    ]


def _halving(model: LoadedModel, batch: Sequence[SegmentFrames]) -> list[Adapter | Reject]:
    """Halve a batch that does not fit the device, until one segment alone does not."""
    try:
        adapters = internalize(
            model.vlm,
            model.hypernetwork,
            batch,
            checkpoint_sha256=model.checkpoint.sha256,
        )
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(batch) == 1:
            detail = f"one segment does not fit the memory of {model.vlm.device}"
            return [Reject(reason=Reason.DEVICE_OOM, detail=detail)]
    else:
        return list(adapters)
    logger.warning("device memory is full at %d segments; halving the batch", len(batch))
    middle = len(batch) // 2
    return _halving(model, batch[:middle]) + _halving(model, batch[middle:])


def _checked(
    adapter: Adapter,
    frames: SegmentFrames,
    model: LoadedModel,
    recipe: Recipe,
    *,
    stored_dtype: StoredDtype,
    device_s: float,
) -> MadeAdapter | Reject:
    norms = _norms(adapter)
    if not all(map(torch.isfinite, map(torch.tensor, norms.values()))):
        return Reject(reason=Reason.NON_FINITE, detail=f"norms of the factors: {norms}")
    data = adapter_bytes(adapter, dtype=getattr(torch, stored_dtype))
    columns = {
        "frame_times_us": list(frames.times_us),
        "prompt": recipe.content["internalization_prompt"],
        "model_name": model.vlm.name,
        "model_revision": model.vlm.revision,
        "model_weights_sha256": model.vlm.weights_sha256,
        "checkpoint_sha256": adapter.checkpoint_sha256,
        "is_random": model.is_random,
        "rank": adapter.rank,
        "layers": list(adapter.layers),
        "modules": sorted(adapter.factors),
        "scaling": adapter.scaling,
        "dtype": stored_dtype,
        "size_bytes": len(data),
        "device": str(model.vlm.device),
        "device_s": device_s,
        **norms,
    }
    return MadeAdapter(data=data, columns=columns)


def _norms(adapter: Adapter) -> dict[str, float]:
    """Frobenius norms of A, of B and of the updates, without building any update."""
    squares = {"norm_a": 0.0, "norm_b": 0.0, "norm_update": 0.0}
    for factors in adapter.factors.values():
        gram_a = factors.a.float() @ factors.a.float().mT
        gram_b = factors.b.float() @ factors.b.float().mT
        squares["norm_a"] += float(gram_a.diagonal(dim1=-2, dim2=-1).sum())
        squares["norm_b"] += float(gram_b.diagonal(dim1=-2, dim2=-1).sum())
        squares["norm_update"] += adapter.scaling**2 * float((gram_a * gram_b).sum())
    return {name: max(square, 0.0) ** 0.5 for name, square in squares.items()}
