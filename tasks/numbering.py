"""The segments of a shard as one numbered stream, the same in every attempt.

Units are cut from the numbers, so what gives a number must not depend on how far an attempt came:
segments that are done, and those of deleted videos, have theirs too and are passed over. A video
that is rejected whole counts as one segment, a second file with the same bytes as none.
"""

from storage import identity
from tasks.crew import Crew
from tasks.known import Known
from tasks.meet_video import MetVideo
from tasks.open_units import OpenUnits
from tasks.shard_plan import ShardPlan
from tasks.work_stream import Slot


class Numbering:
    """Gives segments their numbers, source by source in plan order.

    Sources are met at the same time, so a reader whose source's turn has not come waits. An earlier
    source is always with a reader already: they take sources in the same order.
    """

    def __init__(self, crew: Crew, units: OpenUnits, plan: ShardPlan, known: Known) -> None:
        """Start with the first source and the number 0."""
        self._crew = crew
        self._units = units
        self._plan = plan
        self._known = known
        self._turn = 0
        self._num_slots = 0
        self._seen: set[str] = set()

    def number(self, order: int, video: MetVideo) -> list[Slot]:
        """Number the segments of the source at `order` and return those to do."""
        self._crew.wait_for(lambda: self._turn == order and self._units.is_near(self._num_slots))
        # Until the turn is given on, this thread alone is here, and alone asks the catalog.
        first, unit = self._num_slots, self._num_slots // self._plan.unit_segments
        slots = self._slots(video, first)
        todo = [slot for slot in slots if not self._is_done(slot)]
        num_slots = first + (len(slots) or (video.reject is not None))
        with self._crew.changing():
            self._units.expect(video, unit, [slot.unit for slot in todo])
            self._units.end_before(num_slots // self._plan.unit_segments)
            self._num_slots = num_slots
            self._turn += 1
            if self._turn == len(self._plan.sources):
                last = max(unit, (num_slots - 1) // self._plan.unit_segments)
                self._units.end_with(last)
        return todo

    def _slots(self, video: MetVideo, first: int) -> list[Slot]:
        video_id = video.video_id
        if video_id is None or video_id in self._seen:
            return []
        self._seen.add(video_id)
        return [
            Slot(
                index=index,
                unit=index // self._plan.unit_segments,
                video=video,
                video_id=video_id,
                segment=segment,
                adapter_key=identity.adapter_key(
                    self._plan.recipe_id, video_id, segment.start_us, segment.end_us
                ),
            )
            for index, segment in enumerate(video.segments, start=first)
        ]

    def _is_done(self, slot: Slot) -> bool:
        if slot.unit < self._plan.first_unit or slot.video_id in self._known.deleted:
            return True
        span = (slot.segment.start_us, slot.segment.end_us)
        return span in self._known.done_spans(slot.video_id)
