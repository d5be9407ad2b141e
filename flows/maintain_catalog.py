"""What keeps a lake well, each a flow of its own: verify, compact, gc, delete."""

from collections.abc import Callable
from datetime import timedelta
from typing import ParamSpec, Protocol, TypeVar

from tasks import keep_lake
from tasks.keep_lake import Kept

P = ParamSpec("P")
T = TypeVar("T")


class StepEngine(Protocol):
    """Runs steps, as they are or wrapped by Prefect."""

    def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one step."""
        ...


def verify(
    engine: StepEngine,
    lake: str,
    *,
    video: str | None = None,
    sample: int | None = None,
    quick: bool = False,
) -> Kept:
    """Check a lake and name every fault."""
    return engine.step(keep_lake.verify_lake, lake, video=video, num_sampled=sample, is_quick=quick)


def compact(
    engine: StepEngine, lake: str, *, dry_run: bool = False, history_days: float = 7.0
) -> Kept:
    """Turn many small table files into few."""
    history = timedelta(days=history_days)
    return engine.step(keep_lake.compact_lake, lake, is_dry_run=dry_run, history=history)


def gc(
    engine: StepEngine,
    lake: str,
    *,
    dry_run: bool = False,
    grace_hours: float = 1.0,
    now: bool = False,
    visual_tokens: str | None = None,
) -> Kept:
    """Delete what nothing names any more."""
    return engine.step(
        keep_lake.collect_garbage,
        lake,
        grace=timedelta(hours=grace_hours),
        is_dry_run=dry_run,
        is_now=now,
        sight=visual_tokens,
    )


def delete(
    engine: StepEngine,
    lake: str,
    *,
    video: str,
    reason: str | None = None,
    dry_run: bool = False,
    undo: bool = False,
    purge: bool = False,
) -> Kept:
    """Delete a video and all that was made of it."""
    return engine.step(
        keep_lake.delete_video,
        lake,
        video,
        reason=reason,
        is_dry_run=dry_run,
        is_undo=undo,
        is_purge=purge,
    )
