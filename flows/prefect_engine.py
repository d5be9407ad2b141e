"""The same flows through Prefect: what a deployment runs, and what `--engine prefect` calls.

Steps become tasks whose inputs and results are settings, ids and counts. Nothing is cached by
Prefect (it would hash every input): whether work is done is the catalog's to say, so a flow may be
retried, resubmitted or run twice at any time.
"""

import uuid
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run as current_run
from prefect.tasks import Task

from configs.schema import InternalizeConfig
from flows import fan_out
from flows.internalize_corpus import internalize_corpus
from flows.internalize_shard import internalize_shard
from flows.prefect_events import announce
from flows.prefect_progress import show_run_table, showing_shard
from flows.prefect_shards import PrefectShards
from tasks.summary import RunSummary, ShardSummary

P = ParamSpec("P")
T = TypeVar("T")


class PrefectEngine:
    """Wraps steps as tasks and shards as flows of their own."""

    name = "prefect"

    def step(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the step as a task; a storage hiccup is tried again, a user's error is not."""
        as_task = task(
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=2,
            retry_delay_seconds=5,
            retry_condition_fn=_is_worth_a_retry,
        )
        return as_task(function)(*args, **kwargs)

    def run_shards(
        self, config: InternalizeConfig, *, run_id: str, num_shards: int, attempt_id: str
    ) -> ShardSummary:
        """Run each shard's flow in this process, or let workers run them and wait."""
        if config.shards == "deployment":
            fan_out.submit_all(config, PrefectShards(), run_id=run_id, num_shards=num_shards)
            return self.step(fan_out.wait_for_shards, config.lake, run_id=run_id)
        done = ShardSummary()
        for shard in range(num_shards):
            done += internalize_shard_flow(
                config, run_id=run_id, shard=shard, attempt_id=attempt_id
            )
        return done


@flow(name="internalize-corpus", persist_result=False, validate_parameters=True)
def internalize_corpus_flow(config: InternalizeConfig) -> RunSummary:
    """Internalize every video of a corpus that the lake does not hold under this recipe."""
    summary = internalize_corpus(config, PrefectEngine(), attempt_id=_attempt_id())
    show_run_table(config.lake, summary.plan.run_id)
    announce(
        config.lake,
        summary.published,
        run_id=summary.plan.run_id,
        recipe_id=summary.plan.recipe_id,
    )
    return summary


@flow(name="internalize-shard", persist_result=False, validate_parameters=True)
def internalize_shard_flow(
    config: InternalizeConfig, *, run_id: str, shard: int, attempt_id: str | None = None
) -> ShardSummary:
    """Do one shard of a run: one process, one device."""
    with showing_shard(run_id, shard):
        return internalize_shard(
            config,
            PrefectEngine(),
            run_id=run_id,
            shard=shard,
            attempt_id=attempt_id or _attempt_id(),
        )


@flow(name="start", persist_result=False)
def start_flow() -> None:
    """Do nothing: the first flow of a process waits for its server, and that can be timed."""


def _attempt_id() -> str:
    """Name an attempt as Prefect does, so that a row of the catalog leads to its flow run."""
    found: str | None = current_run.get_id()
    return found or uuid.uuid4().hex


def _is_worth_a_retry(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    """Files and networks fail for a moment; what we raise ourselves stays wrong."""
    return isinstance(state.result(raise_on_failure=False), OSError)
