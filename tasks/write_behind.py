"""Adapters are stored and units committed behind the device's back, in threads of their own.

A few threads put adapter files, in any order: on S3 each waits for an answer, on a disk for its
flush. One thread commits, because units go into the catalog strictly in plan order and a lake's
catalog serves one thread. At most `capacity` adapters wait to be put, so a slow store slows the
device instead of filling the memory.

When the shard is stopped by something else, what was handed over is still stored, and complete
units are committed: that much less is done again. When storing or committing fails, nothing more is
tried.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from storage.commit import Outcome, UnitRows
from storage.schemas import Row
from tasks.crew import Crew
from tasks.internalize_batch import MadeAdapter
from tasks.kept_tokens import KeptTokens
from tasks.measures import count, level
from tasks.meet_video import Reject
from tasks.open_units import OpenUnits
from tasks.shard_plan import ShardPlan
from tasks.stopwatch import Stopwatch
from tasks.unit_rows import UnitDraft, span_columns
from tasks.work_stream import Decoded

NUM_STORERS: Final = 4
_ROLE: Final = "writer"


class PutAdapters(Protocol):
    """Where adapter files go; safe to use from several threads."""

    def put(self, data: bytes) -> str:
        """Publish a file and return its sha256."""
        ...


class UnitLake(Protocol):
    """What of a lake is written to: `Lake` is one."""

    @property
    def adapters(self) -> PutAdapters:
        """The adapter files."""
        ...

    def commit_unit(
        self, *, run_id: str, shard: int, unit: int, rows: UnitRows, common: Row | None = None
    ) -> Outcome:
        """Commit a unit's rows; see Lake.commit_unit."""
        ...


class WriteBehind:
    """The storing and committing threads of a shard."""

    def __init__(
        self,
        crew: Crew,
        plan: ShardPlan,
        *,
        lake: UnitLake,
        units: OpenUnits,
        watch: Stopwatch,
        capacity: int,
        tokens: KeptTokens | None = None,
    ) -> None:
        """Write to `lake`, whose catalog nobody else uses meanwhile, and to `tokens`."""
        self._crew = crew
        self._plan = plan
        self._lake = lake
        self._units = units
        self._watch = watch
        self._capacity = capacity
        self._tokens = tokens
        self._queue: deque[_Waiting] = deque()
        self._num_storing = 0
        self._has_failed = False
        self._last_commit_s = time.perf_counter()
        self.num_units = 0
        self.num_rejects = 0

    def start(self) -> None:
        """Start the threads."""
        for _ in range(NUM_STORERS):
            self._crew.start(_ROLE, self._store_adapters)
        self._crew.start(_ROLE, self._commit_units)

    def take(self, decoded: Decoded, outcome: MadeAdapter | Reject) -> None:
        """Take what a segment became; waits while too many adapters do."""
        unit = decoded.slot.unit
        if isinstance(outcome, Reject):
            with self._crew.changing():
                draft = self._units.draft(unit)
                draft.add_reject(decoded, outcome)
                draft.num_waiting -= 1
            return
        row = {**span_columns(decoded.slot), **outcome.columns}
        with self._crew.changing():
            self._crew.wait_for(lambda: len(self._queue) < self._capacity)
            self._units.draft(unit).add_adapter(decoded, row)
            self._queue.append(_Waiting(unit=unit, row=row, made=outcome))
            level("queue", len(self._queue), label="adapters")

    def finish(self) -> None:
        """Wait until every unit is committed."""
        self._crew.wait_for(lambda: self._units.is_all_committed)

    def _store_adapters(self) -> None:
        while (item := self._next_adapter()) is not None:
            with self._noting_failure(), self._watch.measure("store"):
                # Tokens first: an adapter that is committed has its own, unless they failed.
                if self._tokens is not None and item.made.seen is not None:
                    self._tokens.put(item.row["video_id"], item.made.seen)
                item.row["adapter_sha256"] = self._lake.adapters.put(item.made.data)
                count("adapter_bytes", len(item.made.data))
            with self._crew.changing():
                self._num_storing -= 1
                self._units.draft(item.unit).num_waiting -= 1

    def _next_adapter(self) -> "_Waiting | None":
        with self._crew.changing():
            self._crew.wait_for(
                lambda: bool(self._queue) or self._crew.is_stopped, through_stop=True
            )
            if not self._queue or self._has_failed:
                return None
            self._num_storing += 1
            taken = self._queue.popleft()
            level("queue", len(self._queue), label="adapters")
            return taken

    def _commit_units(self) -> None:
        while (draft := self._next_unit()) is not None:
            with self._noting_failure(), self._watch.measure("commit"):
                self._commit(draft)
            with self._crew.changing():
                self._units.close_oldest()

    def _next_unit(self) -> UnitDraft | None:
        def is_over() -> bool:
            is_drained = self._crew.is_stopped and not (self._queue or self._num_storing)
            return self._has_failed or is_drained or self._units.is_all_committed

        def has_answer() -> bool:
            return is_over() or self._units.oldest_if_complete() is not None

        with self._crew.changing():
            self._crew.wait_for(has_answer, through_stop=True)
            return None if self._has_failed else self._units.oldest_if_complete()

    def _commit(self, draft: UnitDraft) -> None:
        now = time.perf_counter()
        closing = {"wall_s": now - self._last_commit_s}
        outcome = self._lake.commit_unit(
            run_id=self._plan.run_id,
            shard=self._plan.shard,
            unit=draft.unit,
            rows={**draft.rows(), "runs": [closing]},
            common=self._plan.common,
        )
        self._last_commit_s = now
        if outcome == "committed":
            self.num_units += 1
            count("units")
            self.num_rejects += draft.num_rejects

    @contextmanager
    def _noting_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self._crew.changing():
                self._has_failed = True
            raise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waiting:
    """An adapter that waits to be stored."""

    unit: int
    row: dict[str, Any]
    made: MadeAdapter
