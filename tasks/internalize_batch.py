"""One device batch: segments in, each one's adapter or the reason why there is none.

An adapter passes the quality gate before its bytes exist: what is not finite, or far from its
checkpoint's usual norms, becomes a terminal reject and never a row that can be asked. The gate
judges the whole adapter, also where only its largest rank slices are stored.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from storage.schemas import Row
from tasks.meet_video import Reject
from tasks.models import LoadedModel
from tasks.recipe import Recipe
from tasks.work_stream import Watched
from video2lora_core import quality
from video2lora_core.adapter import Adapter, adapter_bytes
from video2lora_core.errors import Reason
from video2lora_core.frames import SegmentFrames
from video2lora_core.internalize import internalize, see
from video2lora_core.rank_slices import choose_slices
from video2lora_core.visual_tokens import SeenSegment, seen_segment

logger = logging.getLogger(__name__)

StoredDtype = Literal["bfloat16", "float32", "int8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeAdapter:
    """An adapter as it goes to the lake."""

    data: bytes
    """The file's bytes."""
    columns: Row
    """What the catalog says about it, the segment aside."""
    seen: SeenSegment | None = None
    """What the model saw, where that is to be kept."""


def internalize_batch(
    model: LoadedModel,
    recipe: Recipe,
    batch: Sequence[Watched],
    *,
    stored_dtype: StoredDtype,
    keeps_tokens: bool = False,
    top_ranks: int | None = None,
) -> list[MadeAdapter | Reject]:
    """Make one adapter per segment; segments of any videos may stand in one batch.

    With `keeps_tokens` each adapter made from frames comes with what the model saw in them.
    `top_ranks` rank slices of each layer are stored; all of them where it is None.
    """
    started = time.perf_counter()
    made = _halving(model, batch, keeps_tokens=keeps_tokens)
    device_s = (time.perf_counter() - started) / len(batch)
    return [
        outcome
        if isinstance(outcome, Reject)
        else _checked(
            outcome,
            given,
            model,
            recipe,
            stored_dtype=stored_dtype,
            top_ranks=top_ranks,
            device_s=device_s,
        )
        for outcome, given in zip(made, batch, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    adapter: Adapter
    seen: SeenSegment | None


def _halving(
    model: LoadedModel, batch: Sequence[Watched], *, keeps_tokens: bool
) -> list[_Made | Reject]:
    """Halve a batch that does not fit the device, until one segment alone does not."""
    try:
        return list(_on_device(model, batch, keeps_tokens=keeps_tokens))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(batch) == 1:
            detail = f"one segment does not fit the memory of {model.vlm.device}"
            return [Reject(reason=Reason.DEVICE_OOM, detail=detail)]
    logger.warning("device memory is full at %d segments; halving the batch", len(batch))
    middle = len(batch) // 2
    halves = (batch[:middle], batch[middle:])
    return [one for half in halves for one in _halving(model, half, keeps_tokens=keeps_tokens)]


def _on_device(
    model: LoadedModel, batch: Sequence[Watched], *, keeps_tokens: bool
) -> Iterator[_Made]:
    tokens = see(model.vlm, batch)
    adapters = internalize(
        model.vlm,
        model.hypernetwork,
        batch,
        checkpoint_sha256=model.checkpoint.sha256,
        visual_tokens=tokens,
    )
    for adapter, given, its_tokens in zip(adapters, batch, tokens, strict=True):
        seen = None
        if keeps_tokens and isinstance(given, SegmentFrames):
            seen = seen_segment(given, its_tokens)
        yield _Made(adapter=adapter, seen=seen)


def _checked(
    made: _Made,
    given: Watched,
    model: LoadedModel,
    recipe: Recipe,
    *,
    stored_dtype: StoredDtype,
    top_ranks: int | None,
    device_s: float,
) -> MadeAdapter | Reject:
    adapter = made.adapter
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
        "frame_times_us": list(given.times_us),
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
    return MadeAdapter(data=data, columns=columns, seen=made.seen)


def _norms(squares: quality.Squares) -> dict[str, float]:
    """Frobenius norms over all layers and modules."""
    sums = {"A": 0.0, "B": 0.0, "update": 0.0}
    for name, by_layer in squares.items():
        sums[name.rpartition(".")[2]] += float(by_layer.sum())
    return {f"norm_{what.lower()}": math.sqrt(total) for what, total in sums.items()}
