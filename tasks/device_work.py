"""The device's part of a shard, in its main thread: batches of whatever segments are ready.

A batch mixes segments of different videos. It is run before it is full only at the end, and where
nothing more can come until a unit is committed that waits for it.
"""

from collections.abc import Callable, Sequence

from tasks.internalize_batch import MadeAdapter
from tasks.measures import count
from tasks.meet_video import MetVideo, Reject
from tasks.progress import report
from tasks.read_ahead import ReadAhead
from tasks.stopwatch import Stopwatch
from tasks.work_stream import Decoded, Watched
from tasks.write_behind import WriteBehind

MakeAdapters = Callable[[Sequence[Watched]], list[MadeAdapter | Reject]]


class DeviceWork:
    """Fills batches and hands on what they became."""

    def __init__(
        self,
        reading: ReadAhead,
        writing: WriteBehind,
        make_adapters: MakeAdapters,
        *,
        batch_segments: int,
        watch: Stopwatch,
    ) -> None:
        """Take from `reading`, give to `writing`."""
        self._reading = reading
        self._writing = writing
        self._make_adapters = make_adapters
        self._batch_segments = batch_segments
        self._watch = watch
        self._batch: list[Decoded] = []
        self.num_segments = 0

    def run(self) -> None:
        """Do all the work that the readers find."""
        while self._step():
            pass  # a step leaves no reference behind: pixels are large

    def _step(self) -> bool:
        with self._watch.measure("wait"):
            event = self._reading.take(held_units={d.slot.unit for d in self._batch})
        if event is not None:
            self._take(event)
        elif self._batch:
            self._run_batch()
        else:
            return False
        return True

    def _take(self, event: Decoded | MetVideo) -> None:
        if isinstance(event, MetVideo):
            if event.is_new and event.reject is not None:
                _report_reject(event.reject)
            report("videos")
            count("videos")
        elif isinstance(event.outcome, Reject):
            self._writing.take(event, event.outcome)
            _report_reject(event.outcome)
        else:
            self._batch.append(event)
            if len(self._batch) >= self._batch_segments:
                self._run_batch()

    def _run_batch(self) -> None:
        batch, self._batch = self._batch, []
        made = self._make_adapters(
            [decoded.outcome for decoded in batch if not isinstance(decoded.outcome, Reject)]
        )
        for decoded, outcome in zip(batch, made, strict=True):
            self._writing.take(decoded, outcome)
        num_made = sum(isinstance(outcome, MadeAdapter) for outcome in made)
        self.num_segments += num_made
        report("segments", num_made)
        count("segments", num_made)
        for outcome in made:
            if isinstance(outcome, Reject):
                _report_reject(outcome)


def _report_reject(reject: Reject) -> None:
    report("rejects")
    count("rejects", label=str(reject.reason))
