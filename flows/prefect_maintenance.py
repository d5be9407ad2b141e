"""The maintenance flows through Prefect: what the deployments verify, compact and gc run.

The parameters are names and numbers, so that a schedule in prefect.yaml can give them.
"""

from prefect import flow

from flows import maintain_catalog
from flows.prefect_engine import PrefectEngine
from storage.errors import LakeError
from tasks.keep_lake import Kept


@flow(name="verify-lake", persist_result=False, validate_parameters=True)
def verify_flow(
    lake: str, video: str | None = None, sample: int | None = None, quick: bool = False
) -> Kept:
    """Check a lake; a fault fails the run, and the log names it."""
    kept = maintain_catalog.verify(PrefectEngine(), lake, video=video, sample=sample, quick=quick)
    if kept.rows:
        first = kept.rows[0]
        raise LakeError(
            f"{lake}: {len(kept.rows)} faults, the first in {first['where']}: {first['what']}; "
            f"{first['fix']}"
        )
    return kept


@flow(name="compact-lake", persist_result=False, validate_parameters=True)
def compact_flow(lake: str, dry_run: bool = False, history_days: float = 7.0) -> Kept:
    """Turn many small table files into few."""
    return maintain_catalog.compact(
        PrefectEngine(), lake, dry_run=dry_run, history_days=history_days
    )


@flow(name="collect-garbage", persist_result=False, validate_parameters=True)
def gc_flow(lake: str, dry_run: bool = False, grace_hours: float = 1.0) -> Kept:
    """Delete what nothing names any more."""
    return maintain_catalog.gc(PrefectEngine(), lake, dry_run=dry_run, grace_hours=grace_hours)


@flow(name="delete-video", persist_result=False, validate_parameters=True)
def delete_flow(
    lake: str, video: str, reason: str | None = None, dry_run: bool = False, purge: bool = False
) -> Kept:
    """Delete a video and all that was made of it."""
    return maintain_catalog.delete(
        PrefectEngine(), lake, video=video, reason=reason, dry_run=dry_run, purge=purge
    )
