"""The steps that keep a lake well: open it, do one thing, return small values, note it."""

import json
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from importlib.metadata import version
from typing import Any, Literal

from storage.errors import CatalogError, LakeError, VideoUnknownError
from storage.garbage import Collected
from storage.keeper import Keeper
from storage.lake import Lake, open_lake
from storage.verify import Scope

logger = logging.getLogger(__name__)

LEAST_GRACE = timedelta(minutes=30)
_SHA256_DIGITS = 64
_NOTED = "maintenance"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """What one step of maintenance did."""

    action: Literal["verify", "compact", "gc", "delete"]
    lake: str
    is_dry_run: bool
    counts: dict[str, int]
    """Numbers by name, in the order in which people read them."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Details: faults, or tables."""


def verify_lake(
    lake: str,
    *,
    video: str | None = None,
    num_sampled: int | None = None,
    is_quick: bool = False,
) -> Kept:
    """Check a lake; its rows are the faults."""
    opened = open_lake(lake)
    video_id = None if video is None else _video_id(opened, video)
    scope = Scope(video_id=video_id, num_sampled=num_sampled, is_quick=is_quick)
    checked = Keeper(opened).verify(scope)
    faults = [asdict(fault) for fault in checked.faults]
    for fault in faults:
        logger.error("%s: %s; %s", fault["where"], fault["what"], fault["fix"])
    counts = {**checked.counts, "faults": len(faults)}
    return Kept(action="verify", lake=lake, is_dry_run=False, counts=counts, rows=faults)


def compact_lake(
    lake: str, *, is_dry_run: bool = False, history: timedelta = timedelta(days=7)
) -> Kept:
    """Compact every table; its rows are the tables."""
    opened = open_lake(lake)
    tables = Keeper(opened).compact(is_dry_run=is_dry_run, history=history)
    if not is_dry_run:
        # The published views name files: those they name now are superseded.
        opened.publish_views()
    counts = {
        "tables": len(tables),
        "files_before": sum(table.num_files for table in tables),
        "files_after": sum(table.num_files_after for table in tables),
        "rows": sum(table.num_rows for table in tables),
    }
    kept = Kept(
        action="compact",
        lake=lake,
        is_dry_run=is_dry_run,
        counts=counts,
        rows=[asdict(table) for table in tables],
    )
    return _noted(opened, kept)


def collect_garbage(
    lake: str,
    *,
    grace: timedelta = timedelta(hours=1),
    is_dry_run: bool = False,
    is_now: bool = False,
    sight: str | None = None,
) -> Kept:
    """Collect garbage; `is_now` takes both looks at once, for when nothing writes to the lake.

    `sight`: also delete what this sight saw; an id of a sight, its first digits, or `all`.
    """
    if grace < LEAST_GRACE and not is_now:
        raise LakeError(
            f"gc: a grace of {grace.total_seconds():.0f} s is shorter than a commit may take "
            f"(at least {LEAST_GRACE.total_seconds():.0f} s); give more, or --now where nothing "
            "writes to this lake"
        )
    opened = open_lake(lake)
    keeper = Keeper(opened)
    seen = Collected()
    if sight is not None:
        seen = keeper.remove_visual_tokens(sight, is_dry_run=is_dry_run)
    late = keeper.remove_rows_of_deleted(is_dry_run=is_dry_run)
    if is_now:
        done = keeper.collect_garbage(grace=timedelta(0), is_dry_run=is_dry_run)
        if not is_dry_run:
            done += keeper.collect_garbage(grace=timedelta(0))
    else:
        done = keeper.collect_garbage(grace=grace, is_dry_run=is_dry_run)
    if not is_dry_run:
        opened.publish_views()
    done += seen
    counts = _plain_counts({**asdict(done), "num_late_rows": sum(late.num_rows.values())})
    return _noted(opened, Kept(action="gc", lake=lake, is_dry_run=is_dry_run, counts=counts))


def delete_video(
    lake: str,
    video: str,
    *,
    reason: str | None = None,
    is_dry_run: bool = False,
    is_undo: bool = False,
    is_purge: bool = False,
) -> Kept:
    """Delete a video, or let it be made again; the files go with the next `gc`."""
    opened = open_lake(lake)
    keeper = Keeper(opened)
    video_id = _video_id(opened, video)
    if is_undo:
        changed = not is_dry_run and keeper.undelete_video(video_id)
        counts = {"undeleted": int(changed)}
    else:
        removed = keeper.delete_video(video_id, reason=reason, is_dry_run=is_dry_run)
        counts = {"deleted": int(removed.is_new), **removed.num_rows}
        counts["sources_blanked"] = removed.num_sources_blanked
        counts["visual_tokens"] = removed.num_visual_tokens
        if is_purge and not is_dry_run:
            counts["table_files_purged"] = keeper.purge_table_files()
    if not is_dry_run:
        opened.publish_views()
    kept = Kept(
        action="delete",
        lake=lake,
        is_dry_run=is_dry_run,
        counts=counts,
        rows=[{"video_id": video_id}],
    )
    return _noted(opened, kept)


def _video_id(lake: Lake, video: str) -> str:
    try:
        return lake.resolve_video(video)
    except VideoUnknownError:
        # A deleted video has no rows to be found by; its full id always means it.
        if len(video) == _SHA256_DIGITS and set(video) <= set("0123456789abcdef"):
            return video
        raise


def _noted(lake: Lake, kept: Kept) -> Kept:
    if not kept.is_dry_run:
        detail = json.dumps({"action": kept.action, "rows": kept.rows, **kept.counts})
        row = {
            "run_id": _NOTED,
            "recipe_id": _NOTED,
            "event": _NOTED,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "code_version": version("video2lora"),
            "detail": detail,
        }
        try:
            lake.append("runs", [row])
        except CatalogError as error:
            # What was to be done is done: a note that cannot be written does not undo it.
            logger.warning("%s: done, but not noted in runs (%s)", kept.action, error)
    logger.info("%s %s: %s", kept.action, kept.lake, kept.counts)
    return kept


def _plain_counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {name.removeprefix("num_"): number for name, number in counts.items()}
