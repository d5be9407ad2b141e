"""The first step of a run: which videos are still to do, in which shards. No video is read."""

import logging
import time

from configs.schema import InternalizeConfig
from storage.lake import Lake, open_lake
from tasks.models import read_checkpoint_files
from tasks.progress import report
from tasks.recipe import Recipe, make_recipe
from tasks.summary import PlanSummary
from tasks.survey_corpus import (
    is_of_catalog,
    list_corpus,
    planned_sources,
    retry_of,
    survey_corpus,
)
from tasks.unit_rows import common_columns

logger = logging.getLogger(__name__)


def plan_run(config: InternalizeConfig, *, attempt_id: str) -> PlanSummary:
    """List a corpus and plan what the lake does not hold of it under this recipe.

    The lake is created where there is none, and given the checkpoint that its adapters name.

    Raises:
        ManifestError: the corpus is missing or lists no video.
        LakeError: the catalog is to be gone over and there is no lake.
    """
    started = time.perf_counter()
    sources = list_corpus(config)
    recipe = make_recipe(config)
    lake = open_lake(config.lake, create=not is_of_catalog(config))
    with survey_corpus(sources, config, recipe, lake) as survey:
        num_sources = survey.num_sources()
        plan = lake.new_plan(
            planned_sources(survey, config),
            recipe_id=recipe.recipe_id,
            shard_cost=1.0,
            retry=retry_of(config),
            unit_segments=config.unit_segments,
        )
    num_planned = plan.header.num_sources
    if num_planned:
        _put_checkpoint(lake, recipe)
        _note_plan(lake, recipe, config, run_id=plan.run_id, attempt_id=attempt_id, num=num_planned)
    report("videos_planned", num_planned)
    logger.info("run %s: %d of %d videos to do", plan.run_id[:12], num_planned, num_sources)
    return PlanSummary(
        run_id=plan.run_id if num_planned else "",
        recipe_id=recipe.recipe_id,
        num_sources=num_sources,
        num_done=num_sources - num_planned,
        num_shards=plan.header.num_shards,
        seconds=time.perf_counter() - started,
    )


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
        # By which `reconcile` finishes a run whose parent died. It holds no credentials: they
        # are refused before.
        "detail": config.model_dump_json(),
    }
    lake.append("runs", [{**columns, **noted}])
