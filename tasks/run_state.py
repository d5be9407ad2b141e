"""How far runs are, by the catalog alone: which are open, and which of their shards are closed.

A shard that is done leaves one row, event `shard`, written last: whoever looks for work left undone
looks for shards without it. An orchestrator is asked only about those.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pyarrow.compute as pc
from pydantic import ValidationError

from configs.schema import InternalizeConfig
from storage.errors import ObjectMissingError
from storage.lake import Lake, find_lake, open_lake
from storage.schemas import Row
from tasks.recipe import make_recipe
from tasks.summary import ShardSummary
from tasks.unit_rows import common_columns

logger = logging.getLogger(__name__)

CLOSED: Final = "shard"


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRun:
    """A run that was planned and is not published."""

    run_id: str
    planned_at: datetime
    """When it was planned last."""
    config: InternalizeConfig | None
    """By what; None where the plan was noted by a version that did not say."""
    num_shards: int
    open_shards: tuple[int, ...]
    """Those that are not done."""
    last_rows_at: Mapping[int, datetime] = field(default_factory=dict)
    """When a shard committed its newest unit."""


def shard_is_closed(lake: str, *, run_id: str, shard: int) -> bool:
    """Say whether somebody has done the shard."""
    return open_lake(lake).catalog.committed("runs", _transaction(run_id, shard)) >= 0


def close_shard(
    config: InternalizeConfig, *, run_id: str, shard: int, attempt_id: str, done: ShardSummary
) -> bool:
    """Write the row that says that a shard is done; False where it was there already."""
    columns = common_columns(make_recipe(config), attempt_id=attempt_id)
    detail = {
        "num_model_loads": done.num_model_loads,
        "num_files_read": done.num_files_read,
        "num_files_decoded": done.num_files_decoded,
        "num_segments_recalled": done.num_segments_recalled,
        "seconds": {name: round(spent, 3) for name, spent in sorted(done.seconds.items())},
    }
    row = {
        **columns,
        "run_id": run_id,
        "event": CLOSED,
        "shard": shard,
        "num_videos": done.num_videos,
        "num_segments": done.num_segments,
        "num_rejects": done.num_rejects,
        "wall_s": done.wall_s,
        "detail": json.dumps(detail),
    }
    transaction = (_transaction(run_id, shard), 0)
    return open_lake(config.lake).append("runs", [row], transaction=transaction)


def open_shards(lake: Lake, run_id: str) -> tuple[int, ...]:
    """List the shards of a run that are not done."""
    where = (pc.field("run_id") == run_id) & (pc.field("event") == CLOSED)
    closed = set(lake.catalog.read("runs", columns=("shard",), where=where)["shard"].to_pylist())
    return tuple(i for i in range(lake.get_plan(run_id).header.num_shards) if i not in closed)


def closed_work(lake: str, run_id: str) -> ShardSummary:
    """Add up what the closed shards of a run say of the attempts that closed them."""
    where = (pc.field("run_id") == run_id) & (pc.field("event") == CLOSED)
    done = ShardSummary()
    for row in open_lake(lake).catalog.read("runs", where=where).to_pylist():
        said = json.loads(row["detail"])
        done += ShardSummary(
            num_videos=row["num_videos"],
            num_files_read=said["num_files_read"],
            num_files_decoded=said["num_files_decoded"],
            num_segments=row["num_segments"],
            num_segments_recalled=said.get("num_segments_recalled", 0),  # older rows have none
            num_rejects=row["num_rejects"],
            num_model_loads=said["num_model_loads"],
            seconds=said["seconds"],
            wall_s=row["wall_s"],
        )
    return done


def open_runs(lake: str) -> list[OpenRun]:
    """List the runs that were planned and not published, oldest first; none without a lake."""
    opened = find_lake(lake)
    if opened is None:
        return []
    columns = ("run_id", "event", "created_at", "shard", "detail")
    where = pc.field("event").isin(["planned", "published", "unit"])
    planned: dict[str, Row] = {}
    published: set[str] = set()
    newest: dict[str, dict[int, datetime]] = defaultdict(dict)
    rows = opened.catalog.read("runs", columns=columns, where=where)
    for row in rows.sort_by("created_at").to_pylist():
        if row["event"] == "planned":
            planned[row["run_id"]] = row
        elif row["event"] == "published":
            published.add(row["run_id"])
        elif row["shard"] is not None:
            newest[row["run_id"]][row["shard"]] = row["created_at"]
    found = [
        _open_run(opened, row, newest[run_id])
        for run_id, row in planned.items()
        if run_id not in published and not opened.is_published(run_id)
    ]
    return sorted((run for run in found if run), key=lambda run: run.planned_at)


def _open_run(lake: Lake, row: Row, last_rows_at: Mapping[int, datetime]) -> OpenRun | None:
    try:
        todo = open_shards(lake, row["run_id"])
        num_shards = lake.get_plan(row["run_id"]).header.num_shards
    except ObjectMissingError as error:
        logger.debug("%s", error)  # a run of answers, whose plan is another and which is no shard's
        return None
    return OpenRun(
        run_id=row["run_id"],
        planned_at=row["created_at"],
        config=_config(row["detail"]),
        num_shards=num_shards,
        open_shards=todo,
        last_rows_at=last_rows_at,
    )


def _config(text: str | None) -> InternalizeConfig | None:
    try:
        return InternalizeConfig.model_validate_json(text or "")
    except ValidationError:
        return None


def _transaction(run_id: str, shard: int) -> str:
    return f"{run_id}:{shard}:closed"
