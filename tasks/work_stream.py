"""What flows through a shard: segments with their place in it, and what decoding made of them."""

from dataclasses import dataclass

from tasks.meet_video import MetVideo, Reject
from video2lora_core.frames import SegmentFrames
from video2lora_core.segments import Segment
from video2lora_core.visual_tokens import SeenSegment

Watched = SegmentFrames | SeenSegment
"""A segment that the device can take: its frames, or what the model saw in them before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A segment's place in the shard."""

    index: int
    """Its number; the unit follows from it."""
    unit: int
    video: MetVideo
    video_id: str
    segment: Segment
    adapter_key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """A segment's frames or visual tokens, or why there are none."""

    slot: Slot
    outcome: Watched | Reject
    decode_s: float
    """Zero where the visual tokens were there."""
