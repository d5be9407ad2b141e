"""What others left is finished: lost shards are submitted again, complete runs are published."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import InternalizeConfig
from flows import fan_out
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
from flows.reconcile import Reconciled, Rule, ShardRun, judge, reconcile
from storage.errors import LakeError
from storage.lake import Lake, open_lake
from tasks import internalize_units
from tasks.models import forget_model
from tasks.plan_run import plan_run
from tasks.publish_run import publish_run
from tasks.run_state import open_runs
from tests.pipeline.conftest import Call
from video2lora_core.errors import UsageError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RULE = Rule(stuck_after_s=600, max_attempts=3)
STATES = (
    "SCHEDULED",
    "PENDING",
    "RUNNING",
    "PAUSED",
    "CANCELLING",
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "CRASHED",
)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def attempt(state: Any, *, number: int = 1, since_s: float = 0, shard: int = 0) -> ShardRun:
    return ShardRun(
        shard=shard, attempt=number, state=state, since=ago(since_s), flow_run_id=f"id-{number}"
    )


def verdict(attempts: Sequence[ShardRun], *, row_s: float | None = None, planned_s: float = 0):
    last_row_at = None if row_s is None else ago(row_s)
    found = judge(
        0, attempts, last_row_at=last_row_at, planned_at=ago(planned_s), now=NOW, rule=RULE
    )
    return found.verdict


@pytest.mark.parametrize(
    ("state", "since_s", "row_s", "expected"),
    [
        ("SCHEDULED", 9999, None, "waiting"),
        ("RUNNING", 599, None, "working"),
        ("RUNNING", 9999, 599, "working"),
        ("RUNNING", 9999, 601, "stuck"),
        ("RUNNING", 601, None, "stuck"),
        ("PENDING", 601, None, "stuck"),
        ("PENDING", 1, None, "working"),
        ("CRASHED", 0, 0, "lost"),
        ("FAILED", 0, None, "lost"),
        ("COMPLETED", 0, None, "lost"),
        ("CANCELLED", 0, None, "cancelled"),
    ],
)
def test_a_shard_is_judged_by_its_state_and_its_newest_row(
    state: Any, since_s: float, row_s: float | None, expected: str
) -> None:
    assert verdict([attempt(state, since_s=since_s)], row_s=row_s) == expected


def test_a_shard_that_nobody_submitted_is_lost_only_after_a_while() -> None:
    assert verdict([], planned_s=599) == "waiting"
    assert verdict([], planned_s=601) == "lost"


def test_the_newest_attempt_counts_and_after_the_last_one_it_is_only_reported() -> None:
    crashed = [attempt("CRASHED", number=n) for n in (1, 2)]
    assert verdict(crashed) == "lost"
    assert verdict([*crashed, attempt("RUNNING", number=3)]) == "working"
    assert verdict([attempt("CRASHED", number=3), *crashed]) == "hopeless"


@given(
    states=st.lists(st.sampled_from(STATES), min_size=1, max_size=5),
    since_s=st.floats(0, 5000),
    row_s=st.none() | st.floats(0, 5000),
)
def test_a_shard_with_a_fresh_row_or_a_waiting_run_is_never_submitted_again(
    states: list[str], since_s: float, row_s: float | None
) -> None:
    attempts = [attempt(s, number=n, since_s=since_s) for n, s in enumerate(states, start=1)]
    found = verdict(attempts, row_s=row_s)
    if states[-1] in ("SCHEDULED", "PAUSED", "CANCELLED"):
        assert found in ("waiting", "cancelled")
    if states[-1] == "RUNNING" and min(since_s, row_s if row_s is not None else since_s) < 600:
        assert found == "working"


@dataclass
class FakeShards:
    """An orchestrator in memory: one run per key, as Prefect answers a key that it knows."""

    runs: dict[tuple[int, int], ShardRun] = field(default_factory=dict)
    num_submissions: int = 0
    given_up: list[str] = field(default_factory=list)

    def submit(self, config: InternalizeConfig, *, run_id: str, shard: int, attempt: int) -> None:
        self.num_submissions += 1
        self.runs.setdefault((shard, attempt), _run("SCHEDULED", shard, attempt))

    def of_run(self, run_id: str) -> list[ShardRun]:
        return list(self.runs.values())

    def give_up(self, run: ShardRun, why: str) -> None:
        self.given_up.append(run.flow_run_id)

    def now_is(self, shard: int, number: int, state: Any, *, since: datetime | None = None) -> None:
        self.runs[shard, number] = _run(state, shard, number, since=since)


def _run(state: Any, shard: int, number: int, *, since: datetime | None = None) -> ShardRun:
    return ShardRun(
        shard=shard,
        attempt=number,
        state=state,
        since=since or datetime.now(UTC),
        flow_run_id=f"{shard}-{number}",
    )


@pytest.fixture
def config(corpus: Path, tmp_path: Path, model: str) -> InternalizeConfig:
    return InternalizeConfig(
        corpus=str(corpus),
        lake=str(tmp_path / "lake"),
        model=model,
        decode={"workers": 0},
        shard_videos=1,
        shards="deployment",
    )


def do_shard(config: InternalizeConfig, run_id: str, shard: int) -> Any:
    return internalize_shard(config, LocalEngine(), run_id=run_id, shard=shard, attempt_id="a")


Announced = list[tuple[str, bool]]


def look(
    config: InternalizeConfig, shards: FakeShards | None, announced: Announced, **more: Any
) -> Reconciled:
    [found] = reconcile(
        config.lake,
        LocalEngine(),
        shards,
        rule=RULE,
        attempt_id="reconcile",
        announce=lambda _, run_id, published: announced.append((run_id, published.is_first)),
        **more,
    )
    return found


def test_reconcile_submits_what_is_lost_once_and_publishes_what_is_complete(
    config: InternalizeConfig,
) -> None:
    shards, announced = FakeShards(), []
    plan = plan_run(config, attempt_id="parent")
    fan_out.submit_all(config, shards, run_id=plan.run_id, num_shards=plan.num_shards)
    assert sorted(shards.runs) == [(0, 1), (1, 1)]
    do_shard(config, plan.run_id, 0)
    shards.now_is(1, 1, "CRASHED")
    dry = look(config, shards, announced, is_dry_run=True)
    assert (dry.num_open, dry.verdicts, dry.num_submitted) == (1, {"lost": 1}, 0)
    # Two at once: both see the crash, the key makes it one run.
    shards_seen_twice = FakeShards(runs=dict(shards.runs))
    assert look(config, shards_seen_twice, announced).num_submitted == 1
    shards.runs |= shards_seen_twice.runs
    fan_out.submit_all(config, shards, run_id=plan.run_id, num_shards=plan.num_shards)
    assert sorted(shards.runs) == [(0, 1), (1, 1), (1, 2)]
    assert look(config, shards, announced).verdicts == {"waiting": 1}
    do_shard(config, plan.run_id, 1)
    assert look(config, shards, announced).outcome == "published"
    assert announced == [(plan.run_id, True)]
    assert open_runs(config.lake) == []
    assert not publish_run(config, run_id=plan.run_id, attempt_id="late").is_first


def test_a_stuck_run_is_given_up_and_submitted_again(config: InternalizeConfig) -> None:
    shards = FakeShards()
    plan_run(config, attempt_id="parent")
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    shards.now_is(0, 1, "RUNNING", since=long_ago)
    shards.now_is(1, 1, "RUNNING")
    found = look(config, shards, [])
    assert found.verdicts == {"stuck": 1, "working": 1}
    assert shards.given_up == ["0-1"]
    assert (0, 2) in shards.runs


def test_without_an_orchestrator_shards_are_only_reported(config: InternalizeConfig) -> None:
    plan = plan_run(config, attempt_id="parent")
    assert look(config, None, []).verdicts == {"unknown": 2}
    with pytest.raises(LakeError, match=r"2 of its shards are not done \(shards 0, 1\)"):
        publish_run(config, run_id=plan.run_id, attempt_id="early")


def test_a_late_duplicate_of_a_finished_shard_loads_no_model_and_opens_no_video(
    config: InternalizeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_run(config, attempt_id="parent")
    forget_model()
    done = [do_shard(config, plan.run_id, shard) for shard in range(plan.num_shards)]
    assert [shard.num_model_loads for shard in done] == [1, 0]  # the process has it by then
    monkeypatch.setattr(internalize_units, "load_model", _never)
    monkeypatch.setattr(internalize_units, "_make_readers", _never)
    again = do_shard(config, plan.run_id, 0)
    assert (again.num_segments, again.num_files_read, again.num_model_loads) == (0, 0, 0)
    rows = lake_of(config).query("select shard, detail from runs where event = 'shard'")
    assert sorted(rows["shard"].to_pylist()) == [0, 1]
    assert fan_out.wait_for_shards(config.lake, run_id=plan.run_id).num_segments == 5


def lake_of(config: InternalizeConfig) -> Lake:
    return open_lake(config.lake)


def _never(*_: Any, **__: Any) -> Any:
    raise AssertionError("a finished shard was worked on")


def test_the_parent_waits_until_others_have_done_the_shards(config: InternalizeConfig) -> None:
    plan = plan_run(config, attempt_id="parent")
    todo = list(range(plan.num_shards))
    pauses: list[float] = []

    def others_work(seconds: float) -> None:
        pauses.append(seconds)
        do_shard(config, plan.run_id, todo.pop())

    done = fan_out.wait_for_shards(config.lake, run_id=plan.run_id, sleep=others_work)
    assert (len(pauses), done.num_segments, done.num_videos) == (2, 5, 2)


def test_a_worker_with_another_model_refuses_the_shard(
    config: InternalizeConfig, model_dir: Path
) -> None:
    from tests.pipeline.conftest import write_model

    plan = plan_run(config, attempt_id="parent")
    other = config.model_copy(update={"model": str(write_model(model_dir, seed=5))})
    with pytest.raises(UsageError, match="was planned under recipe"):
        do_shard(other, plan.run_id, 0)


def test_shards_elsewhere_need_paths_that_mean_the_same_there(config: InternalizeConfig) -> None:
    relative = config.model_copy(update={"lake": "lake"})
    with pytest.raises(UsageError, match="relative path lake"):
        fan_out.submit_all(relative, FakeShards(), run_id="run", num_shards=1)
    with pytest.raises(UsageError, match="needs Prefect"):
        LocalEngine().run_shards(config, run_id="run", num_shards=1, attempt_id="a")


def test_the_command_line_reports_open_runs_and_publishes_complete_ones(
    config: InternalizeConfig, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.prefect_settings.is_api_configured", lambda: False)
    plan = plan_run(config, attempt_id="parent")
    code, out, _ = call("reconcile", "--lake", config.lake)
    assert (code, "2 of 2 shards not done: 2 unknown" in out) == (0, True)
    for shard in range(plan.num_shards):
        do_shard(config, plan.run_id, shard)
    assert '"outcome": "published"' in call("reconcile", "--lake", config.lake, "--json")[1]
    assert "every run is published" in call("reconcile", "--lake", config.lake)[1]


Pauses = Callable[[float], None]


class BusyError(Exception):
    """What a client raises for an answer with a status."""

    def __init__(self, status_code: int) -> None:
        super().__init__(f"status {status_code}")
        self.response = type("Answer", (), {"status_code": status_code})


@pytest.mark.parametrize(
    ("error", "is_tried_again"),
    [
        (BusyError(503), True),
        (BusyError(429), True),
        (BusyError(404), False),
        (RuntimeError("sqlite3: database is locked"), True),
        (ConnectionRefusedError(), True),
        (ValueError("wrong"), False),
    ],
)
def test_a_busy_server_is_asked_again_and_a_wrong_call_is_not(
    error: Exception, is_tried_again: bool
) -> None:
    from flows.prefect_shards import patiently

    answers: list[Any] = [error, error, "done"]
    pauses: list[float] = []

    def call() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    if is_tried_again:
        assert patiently(call, sleep=pauses.append) == "done"
        assert pauses == [1.0, 2.0]
    else:
        with pytest.raises(type(error)):
            patiently(call, sleep=pauses.append)
