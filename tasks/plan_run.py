"""The first step of a run: which videos are still to do, in which shards. No video is read."""

import itertools
import logging
import time
from collections.abc import Iterator

import pyarrow.compute as pc

from configs.schema import InternalizeConfig
from storage.lake import Lake, open_lake
from storage.manifest import Source, list_sources
from storage.plans import PlannedSource
from tasks.known import look_up
from tasks.models import read_checkpoint_files
from tasks.progress import report
from tasks.recipe import Recipe, make_recipe
from tasks.summary import PlanSummary
from tasks.unit_rows import common_columns

logger = logging.getLogger(__name__)

# Sources are looked up in groups: one catalog query each, and a corpus of any size streams through.
_GROUP_SOURCES = 10_000


def plan_run(config: InternalizeConfig, *, attempt_id: str) -> PlanSummary:
    """List a corpus and plan what the lake does not hold of it under this recipe.

    The lake is created where there is none, and given the checkpoint that its adapters name.

    Raises:
        ManifestError: the corpus is missing or lists no video.
    """
    started = time.perf_counter()
    sources = list_sources(config.corpus)
    recipe = make_recipe(config)
    lake = open_lake(config.lake, create=True)
    num_sources = 0
    planned: dict[str, PlannedSource] = {}
    for group in _grouped(sources):
        num_sources += len(group)
        planned |= _still_to_do(lake, group, recipe, config)
    run_id, num_shards = "", 0
    if planned:
        run_id, plan = lake.new_plan(planned.values(), recipe_id=recipe.recipe_id, shard_cost=1.0)
        num_shards = pc.max(plan["shard"]).as_py() + 1
        _put_checkpoint(lake, recipe)
        _note_plan(lake, recipe, config, run_id=run_id, attempt_id=attempt_id, num=len(planned))
    report("videos_planned", len(planned))
    logger.info("run %s: %d of %d videos to do", run_id[:12], len(planned), num_sources)
    return PlanSummary(
        run_id=run_id,
        recipe_id=recipe.recipe_id,
        num_sources=num_sources,
        num_done=num_sources - len(planned),
        num_shards=num_shards,
        seconds=time.perf_counter() - started,
    )


def _grouped(sources: Iterator[Source]) -> Iterator[list[Source]]:
    while group := list(itertools.islice(sources, _GROUP_SOURCES)):
        yield group


def _still_to_do(
    lake: Lake, sources: list[Source], recipe: Recipe, config: InternalizeConfig
) -> dict[str, PlannedSource]:
    known = look_up(lake, sources, recipe_id=recipe.recipe_id)
    return {
        source.source_id: PlannedSource(source=source, cost=_cost(source, config))
        for source in sources
        if not known.is_finished(source, recipe.model.segments)
    }


def _cost(source: Source, config: InternalizeConfig) -> float:
    """The share of a shard that a video fills, by its bytes or by being one of many."""
    return max((source.size_bytes or 0) / config.shard_bytes, 1 / config.shard_videos)


def _put_checkpoint(lake: Lake, recipe: Recipe) -> None:
    files = read_checkpoint_files(recipe.model)
    lake.put_checkpoint(recipe.identity.checkpoint_sha256, files)


def _note_plan(
    lake: Lake,
    recipe: Recipe,
    config: InternalizeConfig,
    *,
    run_id: str,
    attempt_id: str,
    num: int,
) -> None:
    columns = common_columns(recipe, attempt_id=attempt_id)
    noted = {
        "run_id": run_id,
        "event": "planned",
        "corpus": config.corpus_name or config.corpus,
        "num_videos": num,
    }
    lake.append("runs", [{**columns, **noted}])
