"""What Prefect's pages show: how far a shard is, as one progress artifact, and at the end a table.

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

from prefect.artifacts import (
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from storage.errors import StorageError
from tasks.progress import Event, listening
from tasks.status import LakeStatus, read_status

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


def show_run_table(lake: str, run_id: str) -> None:
    """Make the table artifact of a run that ends: what it did, and its rejects by reason.

    Like progress it is told on a best effort; a run that had nothing to do has none.
    """
    if not run_id:
        return
    try:
        found = read_status(lake, run=run_id)
        create_table_artifact(
            table=_table(found), key=f"run-{run_id[:12]}", description=f"Run {run_id[:12]}, {lake}"
        )
    except StorageError as error:
        logger.warning("the table of the run was not made: %s", error)
    except Exception as error:  # the work is done: a page without its table is no failure
        logger.warning("the table artifact was not written: %s", error)


def _table(found: LakeStatus) -> list[dict[str, str | int | float]]:
    run = found.runs[0]
    rows: list[tuple[str, int | float | str]] = [
        ("state", run.state),
        ("shards done", run.num_shards_done),
        ("videos met", run.num_videos_met),
        ("segments", run.num_segments),
        ("rejects", run.num_rejects),
        ("video-hours", round(run.video_hours, 4)),
        ("segments per second", round(run.segments_per_s or 0.0, 3)),
        ("device seconds", round(run.device_s, 2)),
    ]
    rows += [(f"rejected: {row['reason']}", row["num_rejects"]) for row in found.rejects]
    return [{"what": what, "how much": value} for what, value in rows]
