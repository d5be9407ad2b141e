"""The units that are not committed yet: what each still waits for, and how far work may run ahead.

A unit is opened when the first of its segments is numbered, ends when the last of them is, and is
complete when each has its adapter stored or its reject. Only the oldest can be committed.

What a kill costs is bounded here. A segment is decoded only if its number is below the end of the
oldest open unit plus `ahead_segments`, so at any time at most `unit_segments + ahead_segments`
segments are decoded, or computed, and not committed. All else that waits is bounded by that, too.

Nothing here waits; every method is called under the crew's lock.
"""

from collections import deque
from collections.abc import Sequence

from tasks.meet_video import MetVideo
from tasks.shard_plan import ShardPlan
from tasks.unit_rows import UnitDraft


class OpenUnits:
    """The drafts of the open units, oldest first, without a gap."""

    def __init__(self, plan: ShardPlan) -> None:
        """Start at the first unit that is not committed."""
        self._plan = plan
        self.oldest = plan.first_unit
        """The first unit that is not committed."""
        self._drafts: deque[UnitDraft] = deque()
        self._last: int | None = None if plan.sources else -1

    @property
    def num_units(self) -> int:
        """How many units the shard has; known once every source was met."""
        assert self._last is not None, "a source was not met yet"
        return self._last + 1

    @property
    def is_all_committed(self) -> bool:
        """Whether no unit is left."""
        return self._last is not None and self.oldest > self._last

    def is_near(self, index: int) -> bool:
        """Say whether the segment of this number may be decoded now."""
        end = (self.oldest + 1) * self._plan.unit_segments
        return index < end + self._plan.ahead_segments

    def expect(self, video: MetVideo, unit: int, todo: Sequence[int]) -> None:
        """Take a source that was met, and the units that its segments to do are in."""
        if unit >= self.oldest:
            self.draft(unit).add_video(video)
        for each in todo:
            self.draft(each).num_waiting += 1

    def end_before(self, unit: int) -> None:
        """Nothing more is numbered into the units before this one."""
        if unit > self.oldest:
            self.draft(unit - 1)
        for draft in self._drafts:
            draft.is_ended = draft.is_ended or draft.unit < unit

    def end_with(self, last: int) -> None:
        """Every source was met and `last` is the shard's last unit."""
        self._last = last
        self.end_before(last + 1)

    def draft(self, unit: int) -> UnitDraft:
        """Return an open unit's draft."""
        assert unit >= self.oldest, "a committed unit was asked for"
        while len(self._drafts) <= unit - self.oldest:
            number = self.oldest + len(self._drafts)
            self._drafts.append(UnitDraft(number, corpus_name=self._plan.corpus_name))
        return self._drafts[unit - self.oldest]

    def oldest_if_complete(self) -> UnitDraft | None:
        """Return the draft that can be committed next."""
        is_there = bool(self._drafts) and self._drafts[0].is_complete
        return self._drafts[0] if is_there else None

    def close_oldest(self) -> None:
        """The oldest unit is committed."""
        self._drafts.popleft()
        self.oldest += 1
