"""A shard's work as one stream: videos met, segments decoded, units complete. Nothing is held.

Units are fixed by the plan: the shard's segments in order, cut into groups, finished ones and
duplicates of other attempts included, so that every attempt meets the same units. What is done
already is passed over without being decoded. This is the seam for decoding elsewhere: who consumes
the stream does not know where or when the frames were made.
"""

import functools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from configs.schema import InternalizeConfig, ModelConfig
from storage import identity
from storage.manifest import Source
from tasks.known import Known
from tasks.meet_video import MetVideo, Reject, meet_video
from tasks.models import pixel_spec
from tasks.progress import report
from tasks.source_file import SourceFile
from tasks.stopwatch import Stopwatch
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode
from video2lora_core.pixels import prepare
from video2lora_core.segments import Segment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Met:
    """A source was looked at; its rows go with this unit."""

    unit: int
    video: MetVideo


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A segment's place in the shard."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitEnd:
    """Everything of this unit was in the stream."""

    unit: int


Event = Met | Decoded | UnitEnd


class WorkStream:
    """Iterates over the events of one shard, once."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        known: Known,
        recipe_id: str,
        config: InternalizeConfig,
        model: ModelConfig,
        first_unit: int,
        watch: Stopwatch,
    ) -> None:
        """Plan nothing yet; `first_unit` is the first that is not committed."""
        self._sources = sources
        self._known = known
        self._recipe_id = recipe_id
        self._config = config
        self._model = model
        self._first_unit = first_unit
        self._watch = watch
        self._num_slots = 0
        self._unit = 0
        self._seen: set[str] = set()
        self.num_files_read = 0
        self.num_files_decoded = 0

    @property
    def num_units(self) -> int:
        """How many units the shard has; known once the stream has ended."""
        return self._unit

    def __iter__(self) -> Iterator[Event]:
        """Yield, source by source, what was met and decoded, and where units end."""
        for source in self._sources:
            with SourceFile(source) as file:
                yield from self._source(file)
            report("videos")
        if self._sources:
            yield UnitEnd(unit=self._unit)
            self._unit += 1

    def _source(self, file: SourceFile) -> Iterator[Event]:
        with self._watch.measure("read"):
            video = meet_video(file, self._known, self._model.segments)
        self.num_files_read += video.is_read
        slots = self._slots(video)
        yield from self._ends_before(self._num_slots // self._config.unit_segments)
        yield Met(unit=self._unit, video=video)
        self._num_slots += len(slots) or (video.reject is not None)
        todo = [slot for slot in slots if not self._is_done(slot)]
        for decoded in self._decoded(file, todo):
            yield from self._ends_before(decoded.slot.unit)
            yield decoded

    def _slots(self, video: MetVideo) -> list[Slot]:
        video_id = video.video_id
        if video_id is None or video_id in self._seen or video_id in self._known.deleted:
            return []
        self._seen.add(video_id)
        return [
            Slot(
                unit=(self._num_slots + index) // self._config.unit_segments,
                video=video,
                video_id=video_id,
                segment=segment,
                adapter_key=identity.adapter_key(
                    self._recipe_id, video_id, segment.start_us, segment.end_us
                ),
            )
            for index, segment in enumerate(video.segments)
        ]

    def _is_done(self, slot: Slot) -> bool:
        span = (slot.segment.start_us, slot.segment.end_us)
        return slot.unit < self._first_unit or span in self._known.done_spans(slot.video_id)

    def _ends_before(self, unit: int) -> Iterator[UnitEnd]:
        while self._unit < unit:
            yield UnitEnd(unit=self._unit)
            self._unit += 1

    def _decoded(self, file: SourceFile, slots: Sequence[Slot]) -> Iterator[Decoded]:
        if not slots:
            return
        self.num_files_decoded += 1
        outcomes = self._outcomes(file, [slot.segment for slot in slots])
        for slot in slots:
            started = time.perf_counter()
            outcome = next(outcomes)
            decode_s = time.perf_counter() - started
            self._watch.add("decode", decode_s)
            yield Decoded(slot=slot, outcome=outcome, decode_s=decode_s)

    def _outcomes(
        self, file: SourceFile, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | Reject]:
        """Decode; whatever goes wrong with the file becomes the reject of all that is left."""
        num_yielded = 0
        try:
            for outcome in self._decode(file, segments):
                yield outcome
                num_yielded += 1
            return
        except VideoError as error:
            reject = Reject(reason=error.reason, detail=error.detail)
        except Exception as error:  # an unforeseen fault of one file must not stop the shard
            logger.exception("%s: decoding failed", file.source.uri)
            reject = Reject(reason=Reason.DECODE_CRASH, detail=f"{type(error).__name__}: {error}")
        for _ in segments[num_yielded:]:
            yield reject

    def _decode(
        self, file: SourceFile, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | Reject]:
        found = decode(
            file.path(),
            segments,
            num_frames=self._model.segments.num_frames,
            prepare=functools.partial(prepare, spec=pixel_spec(self._model)),
            decoder=self._config.decoder,
        )
        for outcome in found:
            if isinstance(outcome, SegmentReject):
                yield Reject(reason=outcome.reason, detail=outcome.detail)
            else:
                yield outcome
