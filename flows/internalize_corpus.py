"""A corpus into the lake: plan, then one run per shard, then publish."""

import uuid

from configs.schema import InternalizeConfig
from flows.engine import Engine
from tasks.plan_run import plan_run
from tasks.publish_run import publish_run
from tasks.summary import RunSummary


def internalize_corpus(
    config: InternalizeConfig, engine: Engine, *, attempt_id: str | None = None
) -> RunSummary:
    """Internalize every video of the corpus that the lake does not hold under this recipe."""
    attempt_id = attempt_id or uuid.uuid4().hex
    plan = engine.step(plan_run, config, attempt_id=attempt_id)
    done = engine.run_shards(
        config, run_id=plan.run_id, num_shards=plan.num_shards, attempt_id=attempt_id
    )
    published = engine.step(publish_run, config, run_id=plan.run_id, attempt_id=attempt_id)
    return RunSummary(plan=plan, shards=done, published=published, engine=engine.name)
