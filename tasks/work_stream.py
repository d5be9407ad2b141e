"""What flows through a shard: segments with their place in it, and what decoding made of them."""

from dataclasses import dataclass

from tasks.meet_video import MetVideo, Reject
from video2lora_core.frames import SegmentFrames
from video2lora_core.segments import Segment


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
    """A segment's frames, or why there are none."""

    slot: Slot
    outcome: SegmentFrames | Reject
    decode_s: float
