"""One device batch: segments in, each one's adapter or the reason why there is none.

An adapter passes the quality gate before its bytes exist: what is not finite, or far from its
checkpoint's usual norms, becomes a terminal reject and never a row that can be asked. The gate
judges the whole adapter, also where only its largest rank slices are stored.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from storage.schemas import Row
from tasks.meet_video import Reject
from tasks.models import LoadedModel
from tasks.recipe import Recipe
from video2lora_core import quality
from video2lora_core.adapter import Adapter, adapter_bytes
from video2lora_core.errors import Reason
from video2lora_core.frames import SegmentFrames
from video2lora_core.internalize import internalize
from video2lora_core.rank_slices import choose_slices

logger = logging.getLogger(__name__)

StoredDtype = Literal["bfloat16", "float32", "int8"]


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
    top_ranks: int | None = None,
) -> list[MadeAdapter | Reject]:
    """Make one adapter per segment; segments of any videos may stand in one batch.

    `top_ranks` rank slices of each layer are stored; all of them where it is None.
    """
    started = time.perf_counter()
    made = _halving(model, batch)
    device_s = (time.perf_counter() - started) / len(batch)
    return [
        outcome
        if isinstance(outcome, Reject)
        else _checked(
            outcome,
            frames,
            model,
            recipe,
            stored_dtype=stored_dtype,
            top_ranks=top_ranks,
            device_s=device_s,
        )
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
    top_ranks: int | None,
    device_s: float,
) -> MadeAdapter | Reject:
    squares = quality.squared_norms(adapter)
    fault = quality.check(adapter, model.checkpoint.bounds, squares)
    if fault is not None:
        reason, detail = fault
        return Reject(reason=reason, detail=detail)
    if top_ranks is not None:
        adapter = choose_slices(adapter, "top-k", count=top_ranks)
        squares = quality.squared_norms(adapter)
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
        **_norms(squares),
    }
    return MadeAdapter(data=data, columns=columns)


def _norms(squares: quality.Squares) -> dict[str, float]:
    """Frobenius norms over all layers and modules."""
    sums = {"A": 0.0, "B": 0.0, "update": 0.0}
    for name, by_layer in squares.items():
        sums[name.rpartition(".")[2]] += float(by_layer.sum())
    return {f"norm_{what.lower()}": math.sqrt(total) for what, total in sums.items()}
