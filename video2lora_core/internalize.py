"""Segments in, segment adapters out: the encoder and the hypernetwork in one streaming pass.

The features of a layer become a narrow context and are dropped before the next layer runs; a few
layers' contexts at a time become factors (factor_stream.py), so memory does not grow with the depth
of the decoder. A batch may mix segments of different videos; prompts of different length are padded
on the right and masked.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors
from video2lora_core.encoder import stream_features
from video2lora_core.errors import ModelMismatchError, UsageError
from video2lora_core.factor_stream import FactorStream
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig
from video2lora_core.segments import Segment
from video2lora_core.vlm import Vlm, internalization_ids


@runtime_checkable
class SegmentPixels(Protocol):
    """Whatever holds one segment's prepared frames, as `frames.SegmentFrames` does."""

    @property
    def segment(self) -> Segment:
        """Return the span the frames were taken from."""

    @property
    def pixels(self) -> UInt8[np.ndarray, "frame channel height width"]:
        """Return the frames at the model's size."""

    @property
    def times_us(self) -> tuple[int, ...]:
        """Return each frame's time in the video."""


def internalize(
    vlm: Vlm,
    hypernetwork: Hypernetwork,
    segments: Sequence[SegmentPixels],
    *,
    checkpoint_sha256: str,
    dtype: torch.dtype = torch.float32,
) -> list[Adapter]:
    """Make one adapter per segment, in order, on the CPU and without the bias.

    Args:
        vlm: the encoder.
        hypernetwork: on the encoder's device.
        segments: one batch; every segment has the same number of frames.
        checkpoint_sha256: what the hypernetwork was loaded from; written into every adapter.
        dtype: type of the factors, cast on the device.

    Raises:
        UsageError: no segment, or segments with different numbers of frames.
        ModelMismatchError: hypernetwork and encoder do not fit each other.
    """
    config = hypernetwork.config
    check_fit(vlm, config)
    input_ids, attention_mask = collate_prompts(vlm, segments)
    mask = None if attention_mask is None else attention_mask.to(vlm.device)
    stream = FactorStream(hypernetwork, mask=mask)
    with torch.no_grad():
        stream_features(
            vlm,
            pixels=collate_pixels(segments),
            input_ids=input_ids,
            attention_mask=mask,
            layers=config.layers,
            consume=stream.take,
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


def collate_prompts(
    vlm: Vlm, segments: Sequence[SegmentPixels]
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


def _row(factors: Factors, row: int) -> Factors:
    # A view would keep the whole batch alive for as long as one of its adapters.
    return Factors(a=factors.a[row].clone(), b=factors.b[row].clone())
