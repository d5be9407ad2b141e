"""What a run would do, before it does anything: counts, hours, bytes, cost. Nothing is written.

Every figure is what the catalog measured under this recipe, what the manifest says, or None where
neither tells; nothing is guessed but lengths of unread files, from their sizes.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.schema import InternalizeConfig
from storage.lake import find_lake
from storage.plans import pack
from storage.survey import Survey
from tasks.models import read_checkpoint_files, visual_token_shape
from tasks.recipe import Recipe, make_recipe
from tasks.survey_corpus import list_corpus, shard_share, survey_corpus
from video2lora_core.checkpoint import DESCRIPTION_FILE

_US_PER_HOUR = 3.6e9
# Per number of a factor, and per row of it: int8 has a float32 scale for each.
_STORED_BYTES = {"bfloat16": (2, 0), "float32": (4, 0), "int8": (1, 4)}

_STATUSES = """SELECT status, count(*) AS num_sources, coalesce(sum(known_us), 0) AS known_us
    FROM surveyed GROUP BY status"""
_TODO = """SELECT
        coalesce(sum(size_bytes), 0) AS size_bytes,
        count(known_us) AS num_known,
        coalesce(sum(known_us), 0) AS known_us,
        count(likely_us) - count(known_us) AS num_estimated,
        coalesce(sum(likely_us) FILTER (known_us IS NULL), 0) AS estimated_us,
        count(*) - count(likely_us) AS num_unknown,
        coalesce(sum(greatest(num_segments - num_done, 0)), 0) AS num_segments,
        coalesce(sum(greatest(likely_us - done_us, 0)), 0) AS todo_us
    FROM surveyed WHERE status IN ('new', 'retry')"""


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """The figures of a run that was not started."""

    recipe_id: str
    num_listed: int
    """Different sources of the corpus."""
    num_todo: int
    """Sources that the run would go through; `num_retried` of them were rejected before."""
    num_retried: int
    num_done: int
    """Sources whose video the lake holds, whole, under this recipe."""
    num_rejected: int
    """Sources rejected for good under this recipe."""
    num_deleted: int
    """Sources whose video was deleted, and stays so."""
    hours_done: float
    """Video of the sources that are done."""
    size_bytes: int
    """Bytes of the files to do."""
    num_known: int
    """Sources to do whose length the catalog or the manifest tells."""
    hours_known: float
    """Their length, added up."""
    num_estimated: int
    """Sources to do whose length follows from their size, as files of the catalog have it."""
    hours_estimated: float
    """Their length, added up."""
    num_unknown: int
    """Sources to do of unknown length: they are in none of the figures below."""
    num_segments: int
    """Segments to do."""
    adapter_bytes: int
    """Bytes of adapters to write."""
    is_adapter_size_measured: bool
    """Whether their size was measured; else it follows from the checkpoint's shapes."""
    visual_token_bytes: int | None
    """Bytes of visual tokens to keep, if none were there before; None where none are kept."""
    device_hours: float | None
    """At the rate measured under this recipe; None where nothing was measured yet."""
    decode_hours: float | None
    """Likewise, of decoding."""
    price_per_device_hour: float | None
    """As configured."""
    cost: float | None
    """Device-hours times price; None where either is unknown."""
    num_shards: int
    """Flow runs."""
    num_units: int | None
    """Commits of segments; None where lengths are unknown."""


def dry_run(config: InternalizeConfig) -> DryRun:
    """Say what internalizing the corpus would do; the lake is only read, and need not exist.

    Raises:
        ManifestError: the corpus is missing or lists no video.
        LakeError: the catalog is to be gone over and there is no lake.
    """
    sources = list_corpus(config)
    recipe = make_recipe(config)
    lake = find_lake(config.lake)
    with survey_corpus(sources, config, recipe, lake) as survey:
        by_status = {row["status"]: row for row in survey.rows(_STATUSES)}
        nums: Mapping[str, int] = Counter({k: row["num_sources"] for k, row in by_status.items()})
        todo = next(survey.rows(_TODO))
        rates = next(survey.rows("SELECT * FROM rates"))
        num_shards, num_units = _shape(survey, config)
    measured = rates["adapter_bytes"]
    adapter_bytes = measured or _expected_bytes(config, recipe)
    device_hours = _hours(todo["todo_us"], rates["device_s_per_us"])
    price = config.price_per_device_hour
    return DryRun(
        recipe_id=recipe.recipe_id,
        num_listed=sum(nums.values()),
        num_todo=nums["new"] + nums["retry"],
        num_retried=nums["retry"],
        num_done=nums["done"],
        num_rejected=nums["rejected"],
        num_deleted=nums["deleted"],
        hours_done=float(by_status["done"]["known_us"]) / _US_PER_HOUR if nums["done"] else 0.0,
        size_bytes=int(todo["size_bytes"]),
        num_known=todo["num_known"],
        hours_known=float(todo["known_us"]) / _US_PER_HOUR,
        num_estimated=todo["num_estimated"],
        hours_estimated=float(todo["estimated_us"]) / _US_PER_HOUR,
        num_unknown=todo["num_unknown"],
        num_segments=int(todo["num_segments"]),
        adapter_bytes=round(int(todo["num_segments"]) * adapter_bytes),
        is_adapter_size_measured=measured is not None,
        visual_token_bytes=_token_bytes(config, recipe, num_segments=int(todo["num_segments"])),
        device_hours=device_hours,
        decode_hours=_hours(todo["todo_us"], rates["decode_s_per_us"]),
        price_per_device_hour=price,
        cost=None if price is None or device_hours is None else price * device_hours,
        num_shards=num_shards,
        num_units=num_units,
    )


def _token_bytes(config: InternalizeConfig, recipe: Recipe, *, num_segments: int) -> int | None:
    """The tensors alone; a file's header is not counted."""
    if not config.keep_visual_tokens:
        return None
    num_tokens, d_model = visual_token_shape(recipe.model)
    per_frame = num_tokens * d_model * _STORED_BYTES[recipe.model.vlm.dtype][0]
    return num_segments * recipe.model.segments.num_frames * per_frame


def _hours(todo_us: Any, seconds_per_us: float | None) -> float | None:
    return None if seconds_per_us is None else float(todo_us) * seconds_per_us / 3600


def _shape(survey: Survey, config: InternalizeConfig) -> tuple[int, int | None]:
    """Cut the shards as planning would, and the units as far as lengths are known."""
    segments: Counter[int] = Counter()
    is_known = True
    todo = survey.todo()
    for shard, surveyed in pack(todo, cost=lambda s: shard_share(s.source, config), shard_cost=1.0):
        segments[shard] += surveyed.num_segments or 0
        is_known = is_known and surveyed.num_segments is not None
    num_units = sum(math.ceil(max(num, 1) / config.unit_segments) for num in segments.values())
    return len(segments), num_units if is_known else None


def _expected_bytes(config: InternalizeConfig, recipe: Recipe) -> int:
    """The factors that the checkpoint's shapes make; the file's own header is not counted."""
    files = read_checkpoint_files(recipe.model)
    shapes = json.loads(files[DESCRIPTION_FILE])["config"]
    per_number, per_row = _STORED_BYTES[config.stored_dtype]
    per_rank = sum(
        (module["d_in"] + module["d_out"]) * per_number + 2 * per_row
        for module in shapes["modules"]
    )
    rank = config.approximations.top_ranks or shapes["rank"]
    return int(per_rank * len(shapes["layers"]) * rank)
