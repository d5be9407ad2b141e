"""The last step of a shard: one composition per video, the exact sum of its adapters.

A concat composition is its parents' names and needs no file. It is written as the shard's last
unit, after the adapters it names are committed.
"""

import logging
from collections.abc import Sequence
from typing import Final

from configs.schema import InternalizeConfig
from storage import identity
from storage.lake import open_lake
from storage.plans import plan_sources
from storage.schemas import Row
from tasks.known import look_up
from tasks.recipe import make_recipe
from tasks.stopwatch import Stopwatch
from tasks.summary import ShardSummary
from tasks.unit_rows import common_columns

logger = logging.getLogger(__name__)

_COLUMNS: Final = ("end_us", "rank", "checkpoint_sha256")


def compose_videos(
    config: InternalizeConfig, *, run_id: str, shard: int, unit: int, attempt_id: str
) -> ShardSummary:
    """Write the compositions that the shard's videos lack.

    Args:
        config: the run's config.
        run_id: the run.
        shard: the shard.
        unit: the number after the shard's last unit of segments.
        attempt_id: this execution.
    """
    watch = Stopwatch()
    recipe = make_recipe(config)
    lake = open_lake(config.lake)
    with watch.measure("compose"):
        sources = plan_sources(lake.get_plan(run_id), shard)
        known = look_up(lake, sources, recipe_id=recipe.recipe_id, run_id=run_id)
        adapters = lake.adapters_for(known.num_uncomposed, recipe.recipe_id, columns=_COLUMNS)
        rows = [
            _composition(recipe.recipe_id, video_id, adapters[video_id])
            for video_id in known.num_uncomposed
        ]
        outcome = "already"
        if rows:
            outcome = lake.commit_unit(
                run_id=run_id,
                shard=shard,
                unit=unit,
                rows={"compositions": rows},
                common=common_columns(recipe, attempt_id=attempt_id),
            )
    is_ours = outcome == "committed"
    logger.info("shard %d: %d compositions", shard, len(rows) if is_ours else 0)
    return ShardSummary(
        num_compositions=len(rows) if is_ours else 0,
        num_units=int(is_ours),
        seconds=watch.seconds,
        wall_s=watch.wall_s,
    )


def _composition(recipe_id: str, video_id: str, adapters: Sequence[Row]) -> Row:
    parents = [row["adapter_sha256"] for row in adapters]
    coefficients = [1.0] * len(parents)
    return {
        "composition_id": identity.composition_id(
            recipe_id=recipe_id, method="concat", parents=parents, coefficients=coefficients
        ),
        "video_id": video_id,
        "start_us": adapters[0]["start_us"],
        "end_us": adapters[-1]["end_us"],
        "parents": parents,
        "coefficients": coefficients,
        "method": "concat",
        "rank": sum(row["rank"] for row in adapters),
        "num_segments": len(parents),
        "covered_us": sum(row["end_us"] - row["start_us"] for row in adapters),
        "relative_error": 0.0,
        "checkpoint_sha256": adapters[0]["checkpoint_sha256"],
    }
