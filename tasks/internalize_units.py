"""The step that does a shard's work: frames to adapters, committed unit by unit in plan order."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from configs.schema import InternalizeConfig
from storage.lake import Lake, open_lake
from storage.plans import StoredPlan, plan_sources
from tasks.decoding_child import DecodingChild, InProcessReader, VideoReader
from tasks.internalize_batch import MadeAdapter, internalize_batch
from tasks.kept_tokens import KeptTokens
from tasks.known import look_up
from tasks.meet_video import Reject
from tasks.models import load_model, num_loads
from tasks.progress import report
from tasks.recipe import Recipe, make_recipe
from tasks.shard_plan import ShardPlan
from tasks.shard_work import do_shard
from tasks.sight import make_sight
from tasks.stopwatch import Stopwatch
from tasks.summary import ShardSummary
from tasks.unit_rows import common_columns
from tasks.work_stream import Watched
from tasks.working_on import working_on
from video2lora_core.errors import UsageError

logger = logging.getLogger(__name__)


def internalize_units(
    config: InternalizeConfig, *, run_id: str, shard: int, attempt_id: str
) -> ShardSummary:
    """Internalize what a shard's plan lists and the catalog lacks.

    Memory holds two batches of frames, two segments per reader and the rows of some units, whatever
    a video's length (docs/pipeline.md).
    """
    with working_on(run_id=run_id, shard=shard):
        return _internalize(config, run_id=run_id, shard=shard, attempt_id=attempt_id)


def _internalize(
    config: InternalizeConfig, *, run_id: str, shard: int, attempt_id: str
) -> ShardSummary:
    watch = Stopwatch()
    loads_before = num_loads()
    recipe = make_recipe(config)
    lake = open_lake(config.lake)
    plan = _shard_plan(lake, config, recipe, run_id=run_id, shard=shard, attempt_id=attempt_id)
    report("shard_videos", len(plan.sources))
    done = do_shard(
        plan,
        known=look_up(lake, plan.sources, recipe_id=recipe.recipe_id, run_id=run_id),
        readers=_make_readers(config, recipe),
        make_adapters=lambda batch: _make_adapters(batch, config, recipe, watch),
        lake=open_lake(config.lake),
        watch=watch,
        scratch_bytes=config.decode.scratch_bytes,
        tokens=_kept_tokens(lake, config, recipe),
    )
    logger.info(
        "shard %d: %d segments internalized, %d of them from visual tokens, %d rejects, %d units "
        "committed, %.1f s",
        shard,
        done.num_segments,
        done.num_segments_recalled,
        done.num_rejects,
        done.num_units,
        done.wall_s,
    )
    return replace(done, num_model_loads=num_loads() - loads_before)


def _shard_plan(
    lake: Lake,
    config: InternalizeConfig,
    recipe: Recipe,
    *,
    run_id: str,
    shard: int,
    attempt_id: str,
) -> ShardPlan:
    stored = lake.get_plan(run_id)
    _require_recipe(stored, recipe, config)
    return ShardPlan(
        run_id=run_id,
        shard=shard,
        recipe_id=recipe.recipe_id,
        sources=plan_sources(stored, shard),
        first_unit=lake.next_unit(run_id, shard),
        unit_segments=stored.header.unit_segments or config.unit_segments,
        ahead_segments=config.decode.ahead_segments,
        batch_segments=config.batch_segments or recipe.model.batch_segments,
        rule=recipe.model.segments,
        corpus_name=config.corpus_name or config.corpus,
        common=common_columns(recipe, attempt_id=attempt_id),
    )


def _require_recipe(plan: StoredPlan, recipe: Recipe, config: InternalizeConfig) -> None:
    """Refuse another worker's plan where this one's files would make other adapters."""
    if plan.header.recipe_id != recipe.recipe_id:
        raise UsageError(
            f"run {plan.run_id[:12]}: it was planned under recipe {plan.header.recipe_id[:12]}, "
            f"and {config.model} here is {recipe.recipe_id[:12]}; give every worker the same "
            "model files and the same version of this software"
        )


def _make_readers(config: InternalizeConfig, recipe: Recipe) -> Sequence[VideoReader]:
    def make(kind: type[InProcessReader] | type[DecodingChild]) -> VideoReader:
        return kind(
            model=recipe.model,
            decoder=config.decoder,
            limits=config.decode,
            sampling=config.approximations.frames,
        )

    if config.decode.workers == 0:
        return [make(InProcessReader)]
    return [make(DecodingChild) for _ in range(config.decode.workers)]


def _kept_tokens(lake: Lake, config: InternalizeConfig, recipe: Recipe) -> KeptTokens | None:
    if not config.keep_visual_tokens:
        return None
    return KeptTokens(lake.objects, make_sight(recipe), model_name=recipe.model.name)


def _make_adapters(
    batch: Sequence[Watched], config: InternalizeConfig, recipe: Recipe, watch: Stopwatch
) -> list[MadeAdapter | Reject]:
    # Loaded with the first batch, while more is decoded; a shard without work needs no model.
    with watch.measure("load"):
        model = load_model(recipe.model)
    with watch.measure("device"):
        return internalize_batch(
            model,
            recipe,
            batch,
            stored_dtype=config.stored_dtype,
            keeps_tokens=config.keep_visual_tokens,
            top_ranks=config.approximations.top_ranks,
        )
