"""How far a shard is, as one progress artifact on Prefect's page of the flow run.

An artifact's change is a synchronous call to the server, so it is made at most every half minute
and once at the end. A server that does not answer does not stop the shard.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from tasks.progress import Event, listening

logger = logging.getLogger(__name__)

PAUSE_S = 30.0


class ShardProgress:
    """Counts a shard's reports and shows them in its artifact."""

    def __init__(
        self, run_id: str, shard: int, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Create nothing before there is something to show."""
        self._key = f"shard-{run_id[:12]}-{shard}"
        self._title = f"Shard {shard} of run {run_id[:12]}"
        self._now = now
        self._last_s = now()
        self._counts: Counter[Event] = Counter()
        self._artifact_id: UUID | None = None

    def take(self, event: Event, count: int) -> None:
        """Take a step's report."""
        self._counts[event] += count
        if self._now() - self._last_s >= PAUSE_S:
            self.show()

    def show(self) -> None:
        """Create the artifact, or bring it up to date."""
        self._last_s = self._now()
        counts = self._counts
        percent = 100.0 * counts["videos"] / max(1, counts["shard_videos"])
        said = (
            f"{self._title}: {counts['videos']} of {counts['shard_videos']} videos, "
            f"{counts['segments']} segments, {counts['rejects']} rejects"
        )
        try:
            if self._artifact_id is None:
                # Called from a flow that is no coroutine, it is none either.
                made = create_progress_artifact(percent, self._key, said)
                self._artifact_id = cast(UUID, made)
            else:
                update_progress_artifact(self._artifact_id, percent, said)
        except Exception as error:  # progress is told on a best effort: the work goes on
            logger.warning("the progress artifact was not written: %s", error)


@contextmanager
def showing_shard(run_id: str, shard: int) -> Iterator[None]:
    """Show the progress of the shard that runs inside the `with` block."""
    progress = ShardProgress(run_id, shard)
    with listening(progress.take):
        try:
            yield
        finally:
            progress.show()
