"""From a stream of decoded frames to the frames of each segment: one pass, bounded memory.

At instant t the last frame that starts at or before t is picked. Only picked frames are converted
to RGB, and they are prepared (resized) at once: what is held is one decoded frame and the prepared
frames of one segment, however long the video is. Whether a segment can be trusted is decided in
segment_frames.py; here only this: once over 30% of all planned time is damaged, what follows is
rejected as CORRUPT_FRAMES without decoding on. After a hole that damage left, frames count as
damaged up to the next key frame: decoders make them from references they do not have.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from video2lora_core.errors import Reason
from video2lora_core.segment_frames import (
    MIN_COVERAGE,
    Damage,
    DecodedFrame,
    HeldFrame,
    OpenSegment,
    Prepare,
    SegmentFrames,
    SegmentReject,
)
from video2lora_core.segments import Segment

MAX_DAMAGED_TIME = 0.30
FORWARD_JUMP_US = 30_000_000
BACKWARD_JUMP_US = 1_000_000


def pick(
    items: Iterable[DecodedFrame | Damage],
    segments: Sequence[Segment],
    *,
    num_frames: int,
    prepare: Prepare,
) -> Iterator[SegmentFrames | SegmentReject]:
    """Yield every segment exactly once, in order, as frames or as a reject.

    `items` come in presentation order as far as the video has one; `segments` ascend and do not
    overlap, and may leave parts of the video out.
    """
    picker = _Picker(segments, num_frames=num_frames, prepare=prepare)
    for item in items:
        if isinstance(item, Damage):
            picker.damages.append(item)
        else:
            yield from picker.advance(item)
        if picker.open is None:
            return
    yield from picker.finish()


class _Picker:
    """The pass: the frame on screen, the segment being filled, the segments that wait."""

    def __init__(self, segments: Sequence[Segment], *, num_frames: int, prepare: Prepare) -> None:
        self._num_frames = num_frames
        self._prepare = prepare
        self._waiting = deque(segments)
        self._planned_us = sum(segment.duration_us for segment in segments)
        self._damaged_us = 0
        self._held: HeldFrame | None = None
        self._size_px: tuple[int, int] | None = None
        self._is_without_reference = False
        self.damages: list[Damage] = []
        self.open: OpenSegment | None = None
        self._open_next()

    def advance(self, frame: DecodedFrame) -> Iterator[SegmentFrames | SegmentReject]:
        """Put the next frame on screen; give out the segments that end before it."""
        on_screen = self._held.frame if self._held else None
        if on_screen is not None and frame.t_us <= on_screen.t_us:
            # Time never runs backwards: the frame is late, or another recording begins here.
            if self.open and on_screen.t_us - frame.t_us > BACKWARD_JUMP_US:
                self.open.flags.add(Reason.PTS_DISCONTINUITY)
            return
        lost_from_us = self._lost_from_us(on_screen, frame)
        is_jump = on_screen is not None and _pause_us(on_screen, frame) > FORWARD_JUMP_US
        while self.open is not None:
            if self._held is not None:
                self.open.take(self._held, until_us=frame.t_us)
            self.open.lost_us += self.open.overlap_us(lost_from_us, frame.t_us)
            if is_jump and on_screen and self.open.overlap_us(on_screen.t_us, frame.t_us):
                self.open.flags.add(Reason.PTS_DISCONTINUITY)
            if frame.t_us < self.open.segment.end_us:
                break
            yield from self._close(frame.t_us)
        self._show(frame)

    def finish(self) -> Iterator[SegmentFrames | SegmentReject]:
        """Give out what is left when the file has ended."""
        shown_us = self._held.frame.end_us if self._held else 0
        seen_end_us = max([shown_us, *(damage.end_us for damage in self.damages)])
        while self.open is not None:
            self.open.lost_us += self.open.overlap_us(shown_us, seen_end_us)
            if self._held is not None and self.open.coverage(seen_end_us) >= MIN_COVERAGE:
                self.open.take(self._held, until_us=self.open.segment.end_us)
            yield from self._close(seen_end_us)

    def _lost_from_us(self, before: DecodedFrame | None, after: DecodedFrame) -> int:
        """Return where the hole before `after` begins; `after.t_us` where there is none."""
        if before is None:
            return 0
        if before.end_us >= after.t_us or not self._is_damaged(before, after):
            return after.t_us
        # One missing frame is often one that no other refers to; two or more are not.
        if after.t_us - before.end_us >= 2 * (before.end_us - before.t_us):
            self._is_without_reference = True
        return before.end_us

    def _is_damaged(self, before: DecodedFrame, after: DecodedFrame) -> bool:
        return any(frame.is_corrupt or frame.is_displaced for frame in (before, after)) or any(
            damage.t_us <= after.t_us and before.t_us <= damage.end_us for damage in self.damages
        )

    def _show(self, frame: DecodedFrame) -> None:
        self._held = HeldFrame(frame, self._prepare)
        size_px = (frame.width_px, frame.height_px)
        is_resized = self._size_px is not None and size_px != self._size_px
        self._size_px = size_px
        self._is_without_reference = self._is_without_reference and not frame.is_key
        if self.open is not None and frame.t_us >= self.open.segment.start_us:
            is_damaged = frame.is_corrupt or self._is_without_reference
            self.open.count(frame, is_damaged=is_damaged)
            if is_resized:
                self.open.flags.add(Reason.RES_CHANGE)

    def _close(self, seen_end_us: int) -> Iterator[SegmentFrames | SegmentReject]:
        assert self.open is not None
        closing, end_us = self.open, self.open.segment.end_us
        for damage in self.damages:
            if damage.is_lost and damage.t_us < end_us:
                closing.count(damage, is_damaged=True)
        self.damages = [damage for damage in self.damages if damage.t_us >= end_us]
        yield closing.close(seen_end_us=seen_end_us)
        self._damaged_us += closing.damaged_us
        self._open_next()
        if self._damaged_us > MAX_DAMAGED_TIME * self._planned_us:
            yield from self._give_up()

    def _give_up(self) -> Iterator[SegmentReject]:
        while self.open is not None:
            yield SegmentReject(
                segment=self.open.segment,
                reason=Reason.CORRUPT_FRAMES,
                detail=f"{self._damaged_us / 1e6:.3f} s before it are damaged "
                f"(expected at most {MAX_DAMAGED_TIME:.0%} of {self._planned_us / 1e6:.3f} s)",
            )
            self._open_next()

    def _open_next(self) -> None:
        self.open = (
            OpenSegment(self._waiting.popleft(), num_frames=self._num_frames)
            if self._waiting
            else None
        )


def _pause_us(before: DecodedFrame, after: DecodedFrame) -> int:
    return after.t_us - before.t_us if after.pause_us is None else after.pause_us
