"""The step that does a shard's work: frames to adapters, committed unit by unit in plan order."""

import logging

from configs.schema import InternalizeConfig
from storage.lake import open_lake
from storage.plans import plan_sources
from tasks.known import look_up
from tasks.recipe import make_recipe
from tasks.shard_writer import ShardWriter
from tasks.stopwatch import Stopwatch
from tasks.summary import ShardSummary
from tasks.work_stream import WorkStream

logger = logging.getLogger(__name__)


def internalize_units(
    config: InternalizeConfig, *, run_id: str, shard: int, attempt_id: str
) -> ShardSummary:
    """Internalize what a shard's plan lists and the catalog lacks.

    Memory holds one batch of frames and the rows of a unit or two, whatever a video's length.
    """
    watch = Stopwatch()
    recipe = make_recipe(config)
    lake = open_lake(config.lake)
    sources = plan_sources(lake.get_plan(run_id), shard)
    stream = WorkStream(
        sources,
        known=look_up(lake, sources, recipe_id=recipe.recipe_id, run_id=run_id),
        recipe_id=recipe.recipe_id,
        config=config,
        model=recipe.model,
        first_unit=lake.next_unit(run_id, shard),
        watch=watch,
    )
    writer = ShardWriter(
        lake, config, recipe, run_id=run_id, shard=shard, attempt_id=attempt_id, watch=watch
    )
    for event in stream:
        writer.take(event)
    writer.finish()
    logger.info(
        "shard %d: %d segments internalized, %d rejects, %d units committed",
        shard,
        writer.num_segments,
        writer.num_rejects,
        writer.num_units,
    )
    return ShardSummary(
        num_videos=len(sources),
        num_files_read=stream.num_files_read,
        num_files_decoded=stream.num_files_decoded,
        num_segments=writer.num_segments,
        num_rejects=writer.num_rejects,
        num_units=writer.num_units,
        num_planned_units=stream.num_units,
        seconds=watch.seconds,
    )
