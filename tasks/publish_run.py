"""The last step of a run: rebuild the views, and mark the run as published, once."""

import logging
import time

import pyarrow.compute as pc

from configs.schema import InternalizeConfig
from storage.errors import LakeError
from storage.lake import Lake, open_lake
from tasks.recipe import make_recipe
from tasks.run_state import open_shards
from tasks.summary import PublishSummary
from tasks.unit_rows import common_columns

logger = logging.getLogger(__name__)


def publish_run(config: InternalizeConfig, *, run_id: str, attempt_id: str) -> PublishSummary:
    """Publish a run whose shards are all done; an empty `run_id` only rebuilds the views.

    Raises:
        LakeError: a shard is not done.
    """
    started = time.perf_counter()
    lake = open_lake(config.lake)
    is_first, counts = False, {"num_adapters": 0, "num_rejects": 0}
    if run_id:
        counts = _counts(lake, run_id)
        is_first = _mark(lake, config, run_id, attempt_id=attempt_id, counts=counts)
    catalog = lake.publish_views()
    logger.info("run %s: published, views in %s", run_id[:12], catalog)
    return PublishSummary(
        is_first=is_first, catalog=catalog, seconds=time.perf_counter() - started, **counts
    )


def _mark(
    lake: Lake, config: InternalizeConfig, run_id: str, *, attempt_id: str, counts: dict[str, int]
) -> bool:
    todo = open_shards(lake, run_id)
    if todo:
        shown = ", ".join(map(str, todo[:8])) + (", ..." if todo[8:] else "")
        raise LakeError(
            f"run {run_id[:12]}: {len(todo)} of its shards are not done (shards {shown}); "
            f"run `video2lora reconcile --lake {config.lake}`, or internalize the corpus again"
        )
    columns = common_columns(make_recipe(config), attempt_id=attempt_id)
    payload = {"run_id": run_id, "recipe_id": columns["recipe_id"], "attempt_id": attempt_id}
    is_first = lake.mark_published(run_id, {**payload, **counts})
    if is_first:
        lake.append("runs", [{**columns, "run_id": run_id, "event": "published", **counts}])
    return is_first


def _counts(lake: Lake, run_id: str) -> dict[str, int]:
    names = ("num_adapters", "num_rejects")
    where = (pc.field("run_id") == run_id) & (pc.field("event") == "unit")
    units = lake.catalog.read("runs", columns=names, where=where)
    return {name: pc.sum(units[name]).as_py() or 0 for name in names}
