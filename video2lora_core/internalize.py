"""Segments in, segment adapters out: the encoder and the hypernetwork in one streaming pass.

The features of a layer become a narrow context and are dropped before the next layer runs; a few
layers' contexts at a time become factors (factor_stream.py), so memory does not grow with the depth
of the decoder. A batch may mix segments of different videos; prompts of different length are padded
on the right and masked. It may also mix segments that are frames with segments that were seen
before: the vision tower runs on the frames alone (visual_tokens.py).
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors
from video2lora_core.encoder import embed_seen, look_at, stream_blocks
from video2lora_core.errors import ModelMismatchError, UsageError
from video2lora_core.factor_stream import FactorStream
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig
from video2lora_core.segments import Segment
from video2lora_core.vlm import Vlm, internalization_ids


@runtime_checkable
class SegmentSpan(Protocol):
    """Which segment, and when its frames are: what its prompt is made from."""

    @property
    def segment(self) -> Segment:
        """Return the span the frames were taken from."""

    @property
    def times_us(self) -> tuple[int, ...]:
        """Return each frame's time in the video."""


@runtime_checkable
class SegmentPixels(SegmentSpan, Protocol):
    """Whatever holds one segment's prepared frames, as `frames.SegmentFrames` does."""

    @property
    def pixels(self) -> UInt8[np.ndarray, "frame channel height width"]:
        """Return the frames at the model's size."""


@runtime_checkable
class SegmentTokens(SegmentSpan, Protocol):
    """Whatever holds what the model saw in a segment, as `visual_tokens.SeenSegment` does."""

    @property
    def visual_tokens(self) -> Float[Tensor, "frame patch d_model"]:
        """Return the frames' visual tokens, in the model's type."""


VisualTokens = Float[Tensor, "frame patch d_model"]


def internalize(
    vlm: Vlm,
    hypernetwork: Hypernetwork,
    segments: Sequence[SegmentPixels | SegmentTokens],
    *,
    checkpoint_sha256: str,
    dtype: torch.dtype = torch.float32,
    visual_tokens: Sequence[VisualTokens] | None = None,
) -> list[Adapter]:
    """Make one adapter per segment, in order, on the CPU and without the bias.

    Args:
        vlm: the encoder.
        hypernetwork: on the encoder's device.
        segments: one batch; every segment has the same number of frames.
        checkpoint_sha256: what the hypernetwork was loaded from; written into every adapter.
        dtype: type of the factors, cast on the device.
        visual_tokens: what `see` gave for these segments; they are seen here where it is not given.

    Raises:
        UsageError: no segment, or segments with different numbers of frames.
        ModelMismatchError: hypernetwork and encoder do not fit each other.
    """
    config = hypernetwork.config
    check_fit(vlm, config)
    input_ids, attention_mask = collate_prompts(vlm, segments)
    mask = None if attention_mask is None else attention_mask.to(vlm.device)
    stream = FactorStream(hypernetwork, mask=mask)
    seen = see(vlm, segments) if visual_tokens is None else visual_tokens
    with torch.no_grad():
        embeddings = embed_seen(vlm, visual_tokens=_stack(seen), input_ids=input_ids)
        stream_blocks(
            vlm, embeddings, attention_mask=mask, layers=config.layers, consume=stream.take
        )
        made = stream.finish()
    # One copy of each side, from the device in the stored type.
    factors = {n: Factors(a=f.a.to(dtype).cpu(), b=f.b.to(dtype).cpu()) for n, f in made.items()}
    return [
        Adapter(
            factors={name: _row(stacked, row) for name, stacked in factors.items()},
            layers=config.layers,
            scaling=config.scaling,
            checkpoint_sha256=checkpoint_sha256,
        )
        for row in range(len(segments))
    ]


def see(vlm: Vlm, segments: Sequence[SegmentPixels | SegmentTokens]) -> list[VisualTokens]:
    """Return each segment's visual tokens, on the model's device.

    The vision tower runs once, on the frames of those segments that have no tokens yet, and not at
    all where every one has.

    Raises:
        UsageError: no segment, or segments with frames of different shapes.
    """
    unseen = [given for given in segments if isinstance(given, SegmentPixels)]
    with torch.no_grad():
        # Without any segment it is `collate_pixels` that says so.
        looks = bool(unseen) or not segments
        looked = iter(look_at(vlm, collate_pixels(unseen)) if looks else ())
        return [
            given.visual_tokens.to(vlm.device) if isinstance(given, SegmentTokens) else next(looked)
            for given in segments
        ]


def collate_prompts(
    vlm: Vlm, segments: Sequence[SegmentSpan]
) -> tuple[Int[Tensor, "segment token"], Int[Tensor, "segment token"] | None]:
    """Tokenise the internalization prompts; the mask is None when nothing is padded."""
    rows = [
        internalization_ids(
            vlm,
            given.times_us,
            given.segment.duration_us,
            start_us=given.segment.start_us,
        )
        for given in segments
    ]
    longest = max(map(len, rows), default=0)
    input_ids = torch.full((len(rows), longest), vlm.end_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = 1
    return input_ids, None if attention_mask.all() else attention_mask


def collate_pixels(
    segments: Sequence[SegmentPixels],
) -> UInt8[Tensor, "segment frame channel height width"]:
    """Stack the frames of segments; they must be of one shape."""
    shapes = sorted({given.pixels.shape for given in segments})
    if len(shapes) != 1:
        raise UsageError(
            f"internalize: {len(segments)} segments with frames of the shapes {shapes} (expected "
            "one shape [frame, channel, height, width]); batch segments of one recipe"
        )
    return torch.from_numpy(np.stack([given.pixels for given in segments]))


def check_fit(vlm: Vlm, config: HypernetworkConfig) -> None:
    """Refuse a hypernetwork made for another encoder."""
    if config.d_model != vlm.d_model or config.layers[-1] >= vlm.num_layers:
        raise ModelMismatchError(
            f"internalize: the hypernetwork reads {config.d_model}-wide features of layers "
            f"{config.layers[0]}..{config.layers[-1]} (the encoder {vlm.name} has "
            f"{vlm.d_model}-wide ones in layers 0..{vlm.num_layers - 1}); use the encoder that its "
            "checkpoint names"
        )


def _stack(
    visual_tokens: Sequence[VisualTokens],
) -> Float[Tensor, "segment frame patch d_model"]:
    shapes = sorted({tuple(tokens.shape) for tokens in visual_tokens})
    if len(shapes) != 1:
        raise UsageError(
            f"internalize: {len(visual_tokens)} segments with visual tokens of the shapes {shapes} "
            "(expected one shape [frame, patch, d_model]); batch segments of one recipe"
        )
    return torch.stack(list(visual_tokens))


def _row(factors: Factors, row: int) -> Factors:
    # A view would keep the whole batch alive for as long as one of its adapters.
    return Factors(a=factors.a[row].clone(), b=factors.b[row].clone())
