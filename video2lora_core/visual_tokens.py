"""What the frozen model saw in a segment, kept: visual tokens as a file.

Visual tokens [frame, patch, d_model] are what vision tower and connector make of frames. Prompt,
hypernetwork and stored type come after them, so a second run that changes only those needs neither
the video nor the vision tower. They are kept in the type that the model computes in: no bit is
lost, and an adapter made from them is the one that their frames make in the same batch.

A file is safetensors with the one tensor `visual_tokens`; its metadata say what the frames were.
"""

import json
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from video2lora_core.errors import Reason
from video2lora_core.segment_frames import SegmentFrames
from video2lora_core.segments import Segment
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

FORMAT = "video2lora-visual-tokens"
FORMAT_VERSION = "1"
_TENSOR = "visual_tokens"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeenSegment:
    """A segment after the vision tower: as `SegmentFrames`, with visual tokens for pixels.

    Attributes:
        segment: the span.
        visual_tokens: of each frame, in time order.
        times_us: the instants asked for, one per frame.
        num_unique_frames: as decoded; see SegmentFrames.
        num_corrupt_frames: likewise.
        max_lag_us: likewise.
        flags: likewise.
    """

    segment: Segment
    visual_tokens: Float[Tensor, "frame patch d_model"]
    times_us: tuple[int, ...]
    num_unique_frames: int
    num_corrupt_frames: int
    max_lag_us: int
    flags: tuple[Reason, ...]


def seen_segment(
    frames: SegmentFrames, visual_tokens: Float[Tensor, "frame patch d_model"]
) -> SeenSegment:
    """Return decoded frames after the vision tower; the tokens are copied to the CPU."""
    # A view would keep the whole batch alive for as long as one of its segments.
    copied = visual_tokens.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    return SeenSegment(
        segment=frames.segment,
        visual_tokens=copied,
        times_us=frames.times_us,
        num_unique_frames=frames.num_unique_frames,
        num_corrupt_frames=frames.num_corrupt_frames,
        max_lag_us=frames.max_lag_us,
        flags=frames.flags,
    )


def seen_bytes(seen: SeenSegment, *, video_id: str) -> bytes:
    """Serialise a segment's visual tokens; equal ones give equal bytes."""
    facts = {
        "video_id": video_id,
        "span_us": [seen.segment.start_us, seen.segment.end_us],
        "times_us": seen.times_us,
        "num_unique_frames": seen.num_unique_frames,
        "num_corrupt_frames": seen.num_corrupt_frames,
        "max_lag_us": seen.max_lag_us,
        "flags": [str(flag) for flag in seen.flags],
    }
    metadata = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": json.dumps(facts)}
    return tensor_bytes({_TENSOR: seen.visual_tokens}, metadata=metadata)


def seen_from_bytes(data: bytes, *, video_id: str, segment: Segment) -> SeenSegment:
    """Read what `seen_bytes` wrote about this segment of this video.

    Raises:
        ValueError: the bytes are no such file, or are about another segment.
    """
    tensors, metadata = read_tensor_bytes(data)
    found = (metadata.get("format"), metadata.get("format_version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(f"format and version are {found}, expected {(FORMAT, FORMAT_VERSION)}")
    try:
        facts = json.loads(metadata["facts"])
        about = (facts["video_id"], *facts["span_us"])
        seen = SeenSegment(
            segment=segment,
            visual_tokens=tensors[_TENSOR],
            times_us=tuple(facts["times_us"]),
            num_unique_frames=facts["num_unique_frames"],
            num_corrupt_frames=facts["num_corrupt_frames"],
            max_lag_us=facts["max_lag_us"],
            flags=tuple(Reason(flag) for flag in facts["flags"]),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"the file lacks or garbles {error}") from error
    if about != (video_id, segment.start_us, segment.end_us):
        raise ValueError(f"it is about {about}, expected {segment} of video {video_id}")
    return seen
