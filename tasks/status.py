"""What is going on in a lake, in numbers: runs, shards, rejects, cost, size.

All of it comes from the catalog and the plans, so it is right wherever the run is: on other
machines, on S3, ended long ago. A rate is per second that a run was worked on, pauses left out.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storage.errors import CatalogError, ObjectError
from storage.lake import Lake, open_lake
from storage.overview import Overview, look_at

_MINUTE_S = 60.0
# A unit is at most 64 segments: where none was closed for so long, nobody may be at work.
SILENT_S = 15 * _MINUTE_S


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """How far a run is, and what it spent."""

    run_id: str
    state: str
    """planned, running, published, or failed; running does not say that somebody is at work."""
    corpus: str | None
    planned_at_s: float
    """When it was first planned, in seconds since 1970."""
    silent_s: float
    """Since its last commit."""
    num_shards: int | None
    """None where the plan is not in the lake any more."""
    num_shards_done: int
    num_videos: int | None
    num_videos_met: int
    num_units: int
    num_segments: int
    num_rejects: int
    video_hours: float
    """Video that became adapters."""
    active_s: float
    """Time in which at least one shard was at work."""
    segments_per_s: float | None
    video_hours_per_hour: float | None
    left_s: float | None
    """None where nothing tells: the run is published, or nobody has committed for a while."""
    device_s: float
    decode_s: float
    wall_s: float
    """Time that devices were held, summed over shards."""
    device_s_per_video_hour: float | None
    cost: float | None = None
    """device_s times the price; None without a price."""
    cost_held: float | None = None
    """wall_s times the price: what a rented device costs, busy or not."""
    cost_per_video_hour: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardStatus:
    """How far a shard is."""

    run_id: str
    shard: int
    state: str
    """waiting, running or done."""
    num_videos: int | None
    num_videos_met: int = 0
    num_units: int = 0
    num_segments: int = 0
    num_rejects: int = 0
    num_attempts: int = 0
    attempt_id: str | None = None
    worker: str | None = None
    silent_s: float | None = None
    device_s: float = 0.0
    wall_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LakeStatus:
    """One look at a lake."""

    lake: str
    runs: list[RunStatus]
    shards: list[ShardStatus]
    """Of the one run that was asked for, else empty."""
    rejects: list[dict[str, Any]] = field(default_factory=list)
    """Open rejects by reason."""
    size: dict[str, int] = field(default_factory=dict)
    """num_videos, num_adapters, adapter_bytes."""


def read_status(
    lake: str, *, run: str | None = None, price: float | None = None, now_s: float | None = None
) -> LakeStatus:
    """Look at a lake; with `run`, the first digits of a run_id, at that run and its shards.

    Raises:
        LakeError: there is no lake.
        CatalogError: no run, or more than one, begins so.
    """
    opened = open_lake(lake)
    now_s = time.time() if now_s is None else now_s
    with look_at(opened, run=run or "") as seen:
        rows = seen.runs()
        if run is not None:
            _require_one(rows, run)
        by_run: dict[str, list[dict[str, Any]]] = {}
        for row in seen.shards():
            by_run.setdefault(row["run_id"], []).append(row)
        planned = {row["run_id"]: shard_sizes(opened, row["run_id"]) for row in rows}
        shards = {
            row["run_id"]: _shards(row, by_run.get(row["run_id"], []), planned, now_s)
            for row in rows
        }
        return LakeStatus(
            lake=lake,
            runs=[_run(row, shards[row["run_id"]], planned, price, now_s) for row in rows],
            shards=[] if run is None else shards[rows[0]["run_id"]],
            rejects=seen.rejects(),
            size=seen.size(),
        )


def _require_one(rows: list[dict[str, Any]], run: str) -> None:
    if len(rows) == 1 and run:
        return
    found = ", ".join(row["run_id"][:12] for row in rows[:3]) or "none"
    raise CatalogError(
        f"run {run!r}: {len(rows)} runs of this lake begin so ({found}); give more digits, or see "
        "them all with `video2lora status`"
    )


def require_run(seen: Overview, run: str) -> dict[str, Any]:
    """Return the one run that `seen` looks at.

    Raises:
        CatalogError: there is none, or there are several.
    """
    rows = seen.runs()
    _require_one(rows, run)
    return rows[0]


def shard_sizes(lake: Lake, run_id: str) -> dict[int, int] | None:
    """Return how many videos each shard of a plan has; None where the plan is gone."""
    try:
        return lake.get_plan(run_id).shard_sizes()
    except ObjectError:
        return None


Planned = Mapping[str, dict[int, int] | None]


def _shards(
    run: dict[str, Any], rows: list[dict[str, Any]], planned: Planned, now_s: float
) -> list[ShardStatus]:
    run_id = run["run_id"]
    sizes = planned[run_id]
    seen = {row["shard"]: row for row in rows}
    numbers = sorted(set(sizes or {}) | set(seen))
    found = []
    for shard in numbers:
        row, size = seen.get(shard), (sizes or {}).get(shard)
        is_done = run["state"] == "published" or (row is not None and _is_done(row, size))
        if row is None:
            state = "done" if is_done else "waiting"
            found.append(ShardStatus(run_id=run_id, shard=shard, state=state, num_videos=size))
            continue
        found.append(
            ShardStatus(
                run_id=run_id,
                shard=shard,
                state="done" if is_done else "running",
                num_videos=size,
                num_videos_met=row["num_met"],
                silent_s=max(0.0, now_s - row["last_us"] / 1e6),
                **{name: row[name] for name in _SHARD_COLUMNS},
            )
        )
    return found


_SHARD_COLUMNS = (
    "num_units",
    "num_segments",
    "num_rejects",
    "num_attempts",
    "attempt_id",
    "worker",
    "device_s",
    "wall_s",
)


def _is_done(row: dict[str, Any], size: int | None) -> bool:
    return bool(row["is_closed"]) or (size is not None and row["num_met"] >= size)


def _run(
    row: dict[str, Any],
    shards: list[ShardStatus],
    planned: Planned,
    price: float | None,
    now_s: float,
) -> RunStatus:
    sizes = planned[row["run_id"]]
    num_videos = sum(sizes.values()) if sizes is not None else row["num_planned_videos"]
    hours, active_s = row["video_hours"], row["active_s"]
    cost = None if price is None else row["device_s"] / 3600 * price
    silent_s = max(0.0, now_s - row["last_us"] / 1e6)
    is_published = row["state"] == "published"
    is_at_work = not is_published and silent_s < SILENT_S
    left_s = _left_s(row["num_met_videos"], num_videos, active_s) if is_at_work else None
    has_failed = not is_published and row["failed_us"] == row["last_us"]
    return RunStatus(
        run_id=row["run_id"],
        state="failed" if has_failed else row["state"],
        corpus=row["corpus"],
        planned_at_s=row["planned_us"] / 1e6,
        silent_s=silent_s,
        num_shards=None if sizes is None else len(sizes),
        num_shards_done=sum(shard.state == "done" for shard in shards),
        num_videos=num_videos,
        num_videos_met=row["num_met_videos"],
        num_units=row["num_units"],
        num_segments=row["num_segments"],
        num_rejects=row["num_rejects"],
        video_hours=hours,
        active_s=active_s,
        segments_per_s=_ratio(row["num_segments"], active_s),
        video_hours_per_hour=_ratio(hours, active_s / 3600),
        left_s=left_s,
        device_s=row["device_s"],
        decode_s=row["decode_s"],
        wall_s=row["wall_s"],
        device_s_per_video_hour=_ratio(row["device_s"], hours),
        cost=cost,
        cost_held=None if price is None else row["wall_s"] / 3600 * price,
        cost_per_video_hour=None if cost is None else _ratio(cost, hours),
    )


def _left_s(num_met: int, num_videos: int | None, active_s: float) -> float | None:
    """Say how long the rest takes if its videos are like those that are through."""
    if not num_videos or not num_met or active_s <= 0 or num_met > num_videos:
        return None
    return active_s / num_met * (num_videos - num_met)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None
