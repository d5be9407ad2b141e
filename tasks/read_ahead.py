"""Readers meet and decode a shard's videos in threads of their own, ahead of the device.

Sources are taken in plan order and decoded side by side; what is decoded is taken in any order,
so a slow video holds nobody up. Pixels wait in one queue of at most `capacity` segments, and each
reader holds two more: the one it handed over last and the one it works on. Segments whose visual
tokens are kept go the same way in the same order, without being decoded (video_segments.py).

Why this cannot get stuck. Say that everything waits, and take the oldest open unit.
* Not all of it is numbered: then no segment beyond it is, so no reader waits for the unit to be
  committed. The first source that is not numbered is with a reader, or will be, because the others
  finish theirs; it waits for no earlier source, for none is left, and not for room on disk, which
  is given in plan order too (scratch.py).
* All of it is numbered: every segment of it may be decoded, its readers decode in ascending order,
  so they wait for room in the queue or for nothing. The queue is emptied by the device.
* All of it came out of the queue: where some of it is in the device's batch, `take` answers None,
  and the batch is run before it is full; stores and commits wait for nobody, so it is committed.
"""

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from tasks.crew import Crew
from tasks.kept_tokens import KeptTokens
from tasks.known import Known
from tasks.measures import level
from tasks.meet_video import MetVideo, Reject, meet_video
from tasks.numbering import Numbering
from tasks.open_units import OpenUnits
from tasks.scratch import Scratch
from tasks.shard_plan import ShardPlan
from tasks.source_file import SourceFile
from tasks.stopwatch import Stopwatch
from tasks.video_reader import VideoReader
from tasks.video_segments import VideoSegments
from tasks.work_stream import Decoded, Slot

ROLE: Final = "reader"

Event = Decoded | MetVideo
"""A segment that was decoded, or a video that is through."""


class ReadAhead:
    """The readers of a shard, and the queue that the device takes from."""

    def __init__(
        self,
        crew: Crew,
        plan: ShardPlan,
        *,
        known: Known,
        units: OpenUnits,
        scratch: Scratch,
        watch: Stopwatch,
        capacity: int,
        tokens: KeptTokens | None = None,
    ) -> None:
        """Open nothing yet; `capacity` is how many segments' frames or visual tokens may wait."""
        self._crew = crew
        self._plan = plan
        self._known = known
        self._units = units
        self._numbering = Numbering(crew, units, plan, known)
        self._scratch = scratch
        self._watch = watch
        self._capacity = capacity
        self._tokens = tokens
        self._num_taken = 0
        self._queue: deque[Event] = deque()
        self._num_waiting = 0  # of what is in the queue, the segments: only they are large
        self.num_files_read = 0
        self.num_files_decoded = 0
        self.num_segments_recalled = 0

    def start(self, readers: Sequence[VideoReader]) -> None:
        """Give every reader a thread."""
        for reader in readers:
            self._crew.start(ROLE, lambda r=reader: self._work(r), abort=reader.close)  # type: ignore[misc]

    def take(self, *, held_units: Collection[int]) -> Event | None:
        """Return what was read next, in no certain order.

        None means that nothing comes before the caller has done what it holds, segments of
        `held_units`: no reader can go on, and the oldest unit waits for them. Where nothing is
        held it means the end.
        """

        def has_answer() -> bool:
            is_next = self._units.oldest in held_units
            is_idle = is_next and self._crew.is_stuck(ROLE)
            return bool(self._queue) or is_idle or self._crew.is_over(ROLE)

        with self._crew.changing():
            self._crew.wait_for(has_answer)
            if not self._queue:
                return None
            taken = self._queue.popleft()
            self._num_waiting -= _has_frames(taken)
            level("queue", self._num_waiting, label="frames")
            return taken

    def _work(self, reader: VideoReader) -> None:
        try:
            while (order := self._next_source()) is not None:
                self._read(order, reader)
        finally:
            reader.close()

    def _next_source(self) -> int | None:
        with self._crew.changing():
            if self._crew.is_stopped or self._num_taken == len(self._plan.sources):
                return None
            order = self._num_taken
            self._scratch.expect(order)
            self._num_taken += 1
            return order

    def _read(self, order: int, reader: VideoReader) -> None:
        source = self._plan.sources[order]
        with SourceFile(source, self._scratch.place(order), watch=self._watch) as file:
            video = meet_video(
                file,
                self._known,
                self._plan.rule,
                reader,
                watch=self._watch,
                tokens=self._tokens,
            )
            todo = self._numbering.number(order, video)
            with self._crew.changing():
                self.num_files_read += video.is_read
            for decoded in self._watched(file, todo, reader):
                self._put(decoded)
        self._put(video)

    def _put(self, event: Event) -> None:
        with self._crew.changing():
            if _has_frames(event):
                self._crew.wait_for(lambda: self._num_waiting < self._capacity)
            self._queue.append(event)
            self._num_waiting += _has_frames(event)
            level("queue", self._num_waiting, label="frames")

    def _watched(
        self, file: SourceFile, todo: Sequence[Slot], reader: VideoReader
    ) -> Iterator[Decoded]:
        segments = VideoSegments(file, todo, reader, tokens=self._tokens)
        for slot in todo:
            self._crew.wait_for(lambda index=slot.index: self._units.is_near(index))  # type: ignore[misc]
            yield self._recalled(segments, slot) or self._decoded(segments, slot)

    def _recalled(self, segments: VideoSegments, slot: Slot) -> Decoded | None:
        if self._tokens is None:
            return None
        with self._watch.measure("recall"):
            seen = segments.seen(slot)
        if seen is None:
            return None
        with self._crew.changing():
            self.num_segments_recalled += 1
        return Decoded(slot=slot, outcome=seen, decode_s=0.0)

    def _decoded(self, segments: VideoSegments, slot: Slot) -> Decoded:
        if not segments.is_opened:
            with self._crew.changing():
                self.num_files_decoded += 1
        with self._watch.measure("decode") as spent:
            outcome = segments.decoded(slot)
        return Decoded(slot=slot, outcome=outcome, decode_s=spent())


def _has_frames(event: Event) -> bool:
    return isinstance(event, Decoded) and not isinstance(event.outcome, Reject)
