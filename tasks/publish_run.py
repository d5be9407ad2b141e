"""The last step of a run: rebuild the views, and mark the run as published, once."""

import logging
import time

from configs.schema import InternalizeConfig
from storage.lake import open_lake
from tasks.recipe import make_recipe
from tasks.summary import PublishSummary
from tasks.unit_rows import common_columns

logger = logging.getLogger(__name__)


def publish_run(config: InternalizeConfig, *, run_id: str, attempt_id: str) -> PublishSummary:
    """Publish a run whose shards are all done; an empty `run_id` only rebuilds the views."""
    started = time.perf_counter()
    lake = open_lake(config.lake)
    is_first = False
    if run_id:
        columns = common_columns(make_recipe(config), attempt_id=attempt_id)
        is_first = lake.mark_published(
            run_id, {"run_id": run_id, "recipe_id": columns["recipe_id"], "attempt_id": attempt_id}
        )
        if is_first:
            lake.append("runs", [{**columns, "run_id": run_id, "event": "published"}])
    catalog = lake.publish_views()
    logger.info("run %s: published, views in %s", run_id[:12], catalog)
    return PublishSummary(is_first=is_first, catalog=catalog, seconds=time.perf_counter() - started)
