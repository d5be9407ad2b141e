"""The spans of a video: how it is cut, and at which instants a span is looked at.

Integers only, in microseconds: a plan is the same on every machine and its segments tile the video
exactly, with no gap, no overlap, nothing trimmed at the ends. Time 0 is the first decoded frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from video2lora_core.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Segment:
    """The half-open span `[start_us, end_us)` of one video: the unit of work.

    Attributes:
        start_us: first instant inside, in microseconds after the first frame.
        end_us: first instant after, in microseconds after the first frame.
    """

    start_us: int
    end_us: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_us < self.end_us:
            raise UsageError(
                f"segment: [{self.start_us}, {self.end_us}) us is not a span "
                "(expected 0 <= start_us < end_us); correct the plan"
            )

    @property
    def duration_us(self) -> int:
        """Length in microseconds, always positive."""
        return self.end_us - self.start_us


def tile(duration_us: int, *, segment_us: int, min_tail_us: int) -> tuple[Segment, ...]:
    """Cut `[0, duration_us)` into segments of `segment_us`, in order.

    A tail of at least `min_tail_us` is a segment of its own, a shorter one joins the segment before
    it. A video shorter than one segment is one segment.

    Raises:
        UsageError: the duration or the rule is not positive, or the tail is longer than a segment.
    """
    if duration_us <= 0:
        raise UsageError(
            f"tile: the video lasts {duration_us} us (expected more than 0); reject it instead"
        )
    if not 0 <= min_tail_us <= segment_us or segment_us == 0:
        raise UsageError(
            f"tile: min_tail_us={min_tail_us} does not fit segment_us={segment_us} "
            "(expected 0 <= min_tail_us <= segment_us, segment_us > 0); change the segment rule"
        )
    num_whole, tail_us = divmod(duration_us, segment_us)
    has_own_tail = tail_us > 0 and tail_us >= min_tail_us
    num_segments = max(1, num_whole + has_own_tail)
    starts = [index * segment_us for index in range(num_segments)]
    return tuple(
        Segment(start_us=start, end_us=end)
        for start, end in zip(starts, [*starts[1:], duration_us], strict=True)
    )


def frame_times(segment: Segment, *, num_frames: int) -> tuple[int, ...]:
    """Return the centres of `num_frames` equal sub-spans of the segment, in microseconds.

    They ascend inside `[start_us, end_us)`, away from both ends, where a neighbour's frame begins.
    """
    if num_frames < 1:
        raise UsageError(f"frame_times: num_frames={num_frames} (expected at least 1)")
    return tuple(
        segment.start_us + (2 * index + 1) * segment.duration_us // (2 * num_frames)
        for index in range(num_frames)
    )


def meeting(segments: Sequence[Segment], *, start_us: int, end_us: int) -> tuple[Segment, ...]:
    """Return the segments that share at least one instant with `[start_us, end_us)`.

    Raises:
        UsageError: the span is empty, or no segment meets it.
    """
    if start_us >= end_us:
        raise UsageError(
            f"span: from {_seconds(start_us)} to {_seconds(end_us)} is empty; "
            "give an end after the start"
        )
    found = tuple(s for s in segments if s.start_us < end_us and start_us < s.end_us)
    if not found:
        known = (
            f"the segments cover {_seconds(min(s.start_us for s in segments))} to "
            f"{_seconds(max(s.end_us for s in segments))}"
            if segments
            else "there are no segments"
        )
        raise UsageError(
            f"span: {_seconds(start_us)} to {_seconds(end_us)} meets no segment ({known}); "
            "give a span inside the video"
        )
    return found


def _seconds(time_us: int) -> str:
    return f"{time_us / 1e6:.3f} s"
