"""How `video2lora status` looks to people."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flows.console import make_console, make_table

if TYPE_CHECKING:  # kept out of the start-up of commands that do not need them
    from tasks.status import LakeStatus, RunStatus, ShardStatus

_DIGITS = 12


def show_status(found: "LakeStatus") -> None:
    """Print runs, shards, rejects and size."""
    console = make_console()
    size = found.size
    console.print(
        f"{found.lake}: {size['num_videos']} videos, {size['num_adapters']} adapters, "
        f"{size['adapter_bytes'] / 1e9:.3f} GB",
        markup=False,
    )
    if not found.runs:
        console.print("no run yet: start one with `video2lora internalize`", markup=False)
    else:
        console.print(make_table(_RUN_COLUMNS, [_run_row(run) for run in found.runs]))
    if any(run.cost is not None for run in found.runs):
        console.print(make_table(_COST_COLUMNS, [_cost_row(run) for run in found.runs]))
    if found.shards:
        console.print(make_table(_SHARD_COLUMNS, [_shard_row(shard) for shard in found.shards]))
    if found.rejects:
        columns = ["reject", "number", "final", "first one", "detail"]
        names = ("reason", "num_rejects", "num_terminal", "example", "detail")
        rows = [[row[name] for name in names] for row in found.rejects]
        console.print(make_table(columns, rows))


_RUN_COLUMNS = [
    "run",
    "state",
    "planned (UTC)",
    "last commit",
    "shards",
    "videos",
    "segments",
    "rejects",
    "segments/s",
    "video h/h",
    "left",
]


def _run_row(run: "RunStatus") -> list[str]:
    planned = datetime.fromtimestamp(run.planned_at_s, UTC)
    return [
        run.run_id[:_DIGITS],
        run.state,
        f"{planned:%Y-%m-%d %H:%M}",
        f"{show_seconds(run.silent_s)} ago",
        f"{run.num_shards_done}/{_or_unknown(run.num_shards)}",
        f"{run.num_videos_met}/{_or_unknown(run.num_videos)}",
        str(run.num_segments),
        str(run.num_rejects),
        _number(run.segments_per_s),
        _number(run.video_hours_per_hour),
        "" if run.left_s is None else show_seconds(run.left_s),
    ]


_COST_COLUMNS = [
    "run",
    "video hours",
    "device h",
    "cost",
    "cost per video h",
    "held h",
    "held cost",
]


def _cost_row(run: "RunStatus") -> list[str]:
    return [
        run.run_id[:_DIGITS],
        f"{run.video_hours:.3f}",
        f"{run.device_s / 3600:.3f}",
        _number(run.cost),
        _number(run.cost_per_video_hour),
        f"{run.wall_s / 3600:.3f}",
        _number(run.cost_held),
    ]


_SHARD_COLUMNS = [
    "shard",
    "state",
    "videos",
    "units",
    "segments",
    "rejects",
    "attempts",
    "last attempt",
    "worker",
    "last commit",
]


def _shard_row(shard: "ShardStatus") -> list[str]:
    return [
        str(shard.shard),
        shard.state,
        f"{shard.num_videos_met}/{_or_unknown(shard.num_videos)}",
        str(shard.num_units),
        str(shard.num_segments),
        str(shard.num_rejects),
        str(shard.num_attempts),
        (shard.attempt_id or "")[:_DIGITS],
        shard.worker or "",
        "" if shard.silent_s is None else f"{show_seconds(shard.silent_s)} ago",
    ]


def show_seconds(seconds: float) -> str:
    """Write a span of time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02d} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _or_unknown(value: int | None) -> str:
    return "?" if value is None else str(value)
