"""One segment being filled with frames, and the verdict on it.

Nothing is made up: a segment whose frames are missing or damaged becomes a `SegmentReject`. The
first of these that holds decides:
    TRUNCATED       the data ends before 95% of the segment
    CORRUPT_FRAMES  over 2% of the segment's frames are damaged
    COVERAGE_GAP    damage left over 5% of the segment without frames
An intact video may stand still for long (a screen recording), so time without frames counts as a
gap only where something beside it is damaged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from video2lora_core.errors import Reason, VideoError
from video2lora_core.segments import Segment, frame_times

MIN_COVERAGE = 0.95
MAX_DAMAGED_FRAMES = 0.02

Prepare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedFrame:
    """One decoded frame, not yet converted; times in microseconds after the first one.

    Attributes:
        t_us: the first integer instant at which it is shown.
        end_us: until when its container says it is shown.
        width_px: stored width.
        height_px: stored height.
        is_corrupt: the decoder says it is damaged.
        is_displaced: it came out after a later one, which only damage nearby explains.
        is_key: it was coded without reference to others.
        is_hdr: its levels mean brightness by PQ or HLG.
        picture_us: when its picture was taken, where that is not `t_us` (keyframes.py).
        pause_us: the longest time before it in which no frame began, where not all are told.
        rgb: converts it, upright, to uint8 [height, width, channel].
    """

    t_us: int
    end_us: int
    width_px: int
    height_px: int
    is_corrupt: bool
    rgb: Callable[[], np.ndarray]
    is_displaced: bool = False
    is_key: bool = True
    is_hdr: bool = False
    picture_us: int | None = None
    pause_us: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """Stored data at `[t_us, end_us)` that is damaged.

    Attributes:
        t_us: where it begins, in microseconds after the first frame.
        end_us: where it ends.
        is_lost: there was data and it gave no frame. Otherwise it is only a sign of loss nearby.
    """

    t_us: int
    end_us: int
    is_lost: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentFrames:
    """The frames of one segment, at the encoder's size.

    Attributes:
        segment: the span.
        pixels: prepared frames in time order.
        times_us: the instants asked for, one per frame.
        num_unique_frames: how many of them are different frames of the video.
        num_corrupt_frames: damaged frames and undecodable packets in the span (under the limit).
        max_lag_us: the longest time by which a picked frame began before the instant asked for, or
            lies on either side of it where key frames are picked.
        flags: PTS_DISCONTINUITY, RES_CHANGE and HDR_AS_SDR, where seen.
    """

    segment: Segment
    pixels: UInt8[np.ndarray, "frame channel height width"]
    times_us: tuple[int, ...]
    num_unique_frames: int
    num_corrupt_frames: int
    max_lag_us: int = 0
    flags: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentReject:
    """A segment that cannot be used, and why."""

    segment: Segment
    reason: Reason
    detail: str


class HeldFrame:
    """The frame now on screen, prepared when first asked for and at most once."""

    def __init__(self, frame: DecodedFrame, prepare: Prepare) -> None:
        self.frame = frame
        self._prepare = prepare
        self._prepared: np.ndarray | None = None

    def prepared(self) -> np.ndarray:
        """Return the frame at the encoder's size."""
        if self._prepared is None:
            self._prepared = self._prepare(self.frame.rgb())
        return self._prepared


class OpenSegment:
    """What is known so far about the segment being filled."""

    def __init__(self, segment: Segment, *, num_frames: int) -> None:
        self.segment = segment
        self.times_us = frame_times(segment, num_frames=num_frames)
        self.damaged_us = 0
        self.lost_us = 0
        self.flags: set[Reason] = set()
        self._frames: list[np.ndarray] = []
        self._picked: set[int] = set()
        self._max_lag_us = 0
        self._num_seen = 0
        self._num_damaged = 0
        self._failure: VideoError | None = None

    def take(self, held: HeldFrame, *, until_us: int) -> None:
        """Serve the instants before `until_us` with the frame now on screen."""
        while len(self._frames) < len(self.times_us) and self._failure is None:
            t_us = self.times_us[len(self._frames)]
            if t_us >= until_us:
                return
            try:
                self._frames.append(held.prepared())
            except VideoError as error:
                self._failure = error
                return
            self._picked.add(held.frame.t_us)
            if held.frame.is_hdr:
                self.flags.add(Reason.HDR_AS_SDR)
            taken_us = held.frame.picture_us
            lag_us = t_us - held.frame.t_us if taken_us is None else abs(t_us - taken_us)
            self._max_lag_us = max(self._max_lag_us, lag_us)

    def count(self, item: DecodedFrame | Damage, *, is_damaged: bool) -> None:
        """Note a frame, or data that gave none, that begins inside the segment."""
        self._num_seen += 1
        if is_damaged:
            self._num_damaged += 1
            self.damaged_us += item.end_us - item.t_us

    def overlap_us(self, start_us: int, end_us: int) -> int:
        """Return how much of `[start_us, end_us)` is inside the segment."""
        return max(0, min(end_us, self.segment.end_us) - max(start_us, self.segment.start_us))

    def coverage(self, seen_end_us: int) -> float:
        """Return the share of the segment that is there when the data ends at `seen_end_us`."""
        return self.overlap_us(self.segment.start_us, seen_end_us) / self.segment.duration_us

    def close(self, *, seen_end_us: int) -> SegmentFrames | SegmentReject:
        """Judge the segment; the video's data is known to reach `seen_end_us`."""
        fault = self._fault(seen_end_us)
        if fault is not None:
            return SegmentReject(segment=self.segment, reason=fault.reason, detail=fault.detail)
        return SegmentFrames(
            segment=self.segment,
            pixels=np.stack(self._frames),
            times_us=self.times_us,
            num_unique_frames=len(self._picked),
            num_corrupt_frames=self._num_damaged,
            max_lag_us=self._max_lag_us,
            flags=tuple(sorted(self.flags)),
        )

    def _fault(self, seen_end_us: int) -> VideoError | None:
        coverage = self.coverage(seen_end_us)
        if coverage < MIN_COVERAGE:
            detail = (
                f"the video ends at {seen_end_us / 1e6:.3f} s, with {coverage:.1%} of the segment "
                f"(expected at least {MIN_COVERAGE:.0%})"
            )
            return VideoError(Reason.TRUNCATED, detail)
        if self._num_damaged > MAX_DAMAGED_FRAMES * self._num_seen:
            detail = (
                f"{self._num_damaged} of {self._num_seen} frames are damaged "
                f"(expected at most {MAX_DAMAGED_FRAMES:.0%})"
            )
            return VideoError(Reason.CORRUPT_FRAMES, detail)
        lost = self.lost_us / self.segment.duration_us
        if lost > 1 - MIN_COVERAGE:
            detail = (
                f"damage left {lost:.1%} of the segment without frames "
                f"(expected at most {1 - MIN_COVERAGE:.0%})"
            )
            return VideoError(Reason.COVERAGE_GAP, detail)
        return self._failure
