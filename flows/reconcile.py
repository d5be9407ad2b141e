"""Finish what others left: submit shards again whose runs died, publish runs that are done.

The catalog says what is not done, Prefect says what became of it. Everything here may run twice at
once: a submission has a key that makes it happen once, publishing has one winner, and a shard that
is done twice changes nothing.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, ParamSpec, Protocol, TypeVar

from configs.schema import InternalizeConfig
from flows.local_engine import LocalEngine
from tasks.publish_run import publish_run
from tasks.run_state import OpenRun, open_runs
from tasks.summary import PublishSummary

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
StateName = Literal[
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "PAUSED",
    "CANCELLING",
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "CRASHED",
]
Verdict = Literal["waiting", "working", "cancelled", "lost", "stuck", "hopeless", "unknown"]
TO_SUBMIT = frozenset({"lost", "stuck"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardRun:
    """One attempt at a shard, as the orchestrator knows it."""

    shard: int
    attempt: int
    state: StateName
    since: datetime
    """When it came into this state."""
    flow_run_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """When a shard counts as lost."""

    stuck_after_s: float = 1800.0
    """A run without a new row in the catalog for so long is taken for dead."""
    max_attempts: int = 5
    """After so many a shard is only reported."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardVerdict:
    """What was found out about a shard that is not done."""

    shard: int
    verdict: Verdict
    attempt: int
    """The newest attempt; 0 where there was none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reconciled:
    """What was done about one run."""

    run_id: str
    corpus: str
    outcome: Literal["published", "open"]
    num_shards: int
    num_open: int
    verdicts: dict[str, int]
    """How many of the open shards were found how."""
    num_submitted: int


class Shards(Protocol):
    """Where shards run."""

    def submit(self, config: InternalizeConfig, *, run_id: str, shard: int, attempt: int) -> None:
        """Start an attempt at a shard; the same attempt again starts nothing."""
        ...

    def of_run(self, run_id: str) -> list[ShardRun]:
        """List every attempt at every shard of a run."""
        ...

    def give_up(self, run: ShardRun, why: str) -> None:
        """Mark a run that nobody executes as crashed."""
        ...


class StepEngine(Protocol):
    """Runs steps, as they are or wrapped by Prefect."""

    def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run one step."""
        ...


Announce = Callable[[InternalizeConfig, str, PublishSummary], None]


def reconcile(
    lake: str,
    engine: StepEngine,
    shards: Shards | None,
    *,
    rule: Rule,
    attempt_id: str,
    announce: Announce,
    is_dry_run: bool = False,
) -> list[Reconciled]:
    """Look at every run that is not published; submit its lost shards, publish what is done.

    Without `shards`, where no orchestrator is known, shards are only reported. Runs whose shards
    are done in one process (`shards: here`) are published, never submitted: their next run
    finishes them.
    """
    done = []
    for run in open_runs(lake):
        if run.config is not None and not run.open_shards:
            if not is_dry_run:
                published = engine.step(
                    publish_run, run.config, run_id=run.run_id, attempt_id=attempt_id
                )
                announce(run.config, run.run_id, published)
            done.append(_reconciled(run, "open" if is_dry_run else "published", [], 0))
            continue
        verdicts = judge_run(run, shards, rule)
        submitted = 0 if shards is None or is_dry_run else _resubmit(run, shards, verdicts)
        done.append(_reconciled(run, "open", verdicts, submitted))
    for entry in done:
        logger.info("run %s: %s, %s", entry.run_id[:12], entry.outcome, entry.verdicts)
    return done


def reconcile_locally(lake: str, *, is_dry_run: bool = False) -> list[Reconciled]:
    """Publish what is complete; without an orchestrator the rest is only reported."""
    return reconcile(
        lake,
        LocalEngine(),
        None,
        rule=Rule(),
        attempt_id=uuid.uuid4().hex,
        announce=_tell_nobody,
        is_dry_run=is_dry_run,
    )


def judge_run(run: OpenRun, shards: Shards | None, rule: Rule) -> list[ShardVerdict]:
    """Say of each open shard of a run how it is."""
    if shards is None or run.config is None or run.config.shards == "here":
        return [ShardVerdict(shard=s, verdict="unknown", attempt=0) for s in run.open_shards]
    attempts = shards.of_run(run.run_id)
    now = datetime.now(UTC)
    return [
        judge(
            shard,
            [attempt for attempt in attempts if attempt.shard == shard],
            last_row_at=run.last_rows_at.get(shard),
            planned_at=run.planned_at,
            now=now,
            rule=rule,
        )
        for shard in run.open_shards
    ]


def judge(
    shard: int,
    attempts: Sequence[ShardRun],
    *,
    last_row_at: datetime | None,
    planned_at: datetime,
    now: datetime,
    rule: Rule,
) -> ShardVerdict:
    """Say how a shard is that is not done, by its newest attempt and its newest row."""
    patience = timedelta(seconds=rule.stuck_after_s)
    if not attempts:
        # Its parent may be about to submit it.
        is_lost = now - planned_at > patience
        return ShardVerdict(shard=shard, verdict="lost" if is_lost else "waiting", attempt=0)
    newest = max(attempts, key=lambda attempt: attempt.attempt)
    sign_of_life = max(newest.since, last_row_at or newest.since)
    verdict = _of_state(newest.state, is_silent=now - sign_of_life > patience)
    if verdict in TO_SUBMIT and newest.attempt >= rule.max_attempts:
        verdict = "hopeless"
    return ShardVerdict(shard=shard, verdict=verdict, attempt=newest.attempt)


def _tell_nobody(_config: InternalizeConfig, _run_id: str, _published: PublishSummary) -> None:
    """Without an orchestrator nobody listens."""


def _of_state(state: StateName, *, is_silent: bool) -> Verdict:
    if state in ("SCHEDULED", "PAUSED"):
        return "waiting"  # for a free worker, however long that takes
    if state == "CANCELLED":
        return "cancelled"  # by a person, who can submit it again
    if state in ("PENDING", "RUNNING", "CANCELLING"):
        return "stuck" if is_silent else "working"
    return "lost"  # failed, crashed, or completed without its last row


def _resubmit(run: OpenRun, shards: Shards, verdicts: Sequence[ShardVerdict]) -> int:
    todo = [found for found in verdicts if found.verdict in TO_SUBMIT]
    if not todo or run.config is None:
        return 0
    attempts = {(each.shard, each.attempt): each for each in shards.of_run(run.run_id)}
    for found in todo:
        # First the new attempt: should this process die in between, the old one is judged again.
        shards.submit(run.config, run_id=run.run_id, shard=found.shard, attempt=found.attempt + 1)
        old = attempts.get((found.shard, found.attempt))
        if found.verdict == "stuck" and old is not None:
            shards.give_up(old, "no new row in the catalog for too long; submitted again")
    return len(todo)


def _reconciled(
    run: OpenRun,
    outcome: Literal["published", "open"],
    verdicts: Sequence[ShardVerdict],
    num_submitted: int,
) -> Reconciled:
    return Reconciled(
        run_id=run.run_id,
        corpus=run.config.corpus_name or run.config.corpus if run.config else "unknown",
        outcome=outcome,
        num_shards=run.num_shards,
        num_open=len(run.open_shards),
        verdicts=dict(Counter(found.verdict for found in verdicts)),
        num_submitted=num_submitted,
    )
