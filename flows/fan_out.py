"""A run's shards as runs of their own, on whichever worker is free; the parent asks the catalog.

What the parent waits for is the row that a shard writes last, never the state of its flow run: a
shard that died and was submitted again by `reconcile`, or that another process did, counts the
same. A parent that dies changes nothing either: `reconcile` submits what it left and publishes.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from configs.schema import InternalizeConfig
from storage.lake import open_lake
from storage.remote import is_remote
from tasks.run_state import closed_work, open_shards
from tasks.summary import ShardSummary
from video2lora_core.errors import UsageError

logger = logging.getLogger(__name__)

FIRST_ATTEMPT: Final = 1
_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 30.0
_REMINDER_S = 600.0


class SubmitShard(Protocol):
    """Starts runs of shards somewhere else."""

    def submit(self, config: InternalizeConfig, *, run_id: str, shard: int, attempt: int) -> None:
        """Start an attempt at a shard; the same attempt again starts nothing."""
        ...


def submit_all(
    config: InternalizeConfig, shards: SubmitShard, *, run_id: str, num_shards: int
) -> None:
    """Start the first attempt at every shard that is not done."""
    if num_shards == 0:
        return
    require_shared_paths(config)
    for shard in open_shards(open_lake(config.lake), run_id):
        shards.submit(config, run_id=run_id, shard=shard, attempt=FIRST_ATTEMPT)


def wait_for_shards(
    lake: str, *, run_id: str, sleep: Callable[[float], None] = time.sleep
) -> ShardSummary:
    """Wait until every shard of a run is done, whoever does it, and add up what they did."""
    if not run_id:
        return ShardSummary()
    opened = open_lake(lake)
    pause_s, waited_s, reminded_s = _PAUSE_S, 0.0, 0.0
    while todo := open_shards(opened, run_id):
        if waited_s - reminded_s >= _REMINDER_S:
            reminded_s = waited_s
            logger.warning(
                "run %s: %d shards are not done after %.0f min; is a worker running on their "
                "pool, and the schedule of reconcile on?",
                run_id[:12],
                len(todo),
                waited_s / 60,
            )
        sleep(pause_s)
        waited_s += pause_s
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
    return closed_work(lake, run_id)


def require_shared_paths(config: InternalizeConfig) -> None:
    """Refuse paths that mean another place on another worker.

    Raises:
        UsageError: lake or model is a relative path.
    """
    model = config.model if config.model.endswith((".yaml", ".yml")) else None
    for name, path in (("lake", config.lake), ("model", model)):
        if path and not is_remote(path) and not Path(path).expanduser().is_absolute():
            raise UsageError(
                f"internalize: with `shards: deployment` the {name} must mean the same on every "
                f"worker (found the relative path {path}); give an absolute path, or s3:// for a "
                "lake"
            )
