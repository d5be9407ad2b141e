"""The step that answers a shard's questions, committed unit by unit in plan order."""

import json
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from configs.answer_schema import AnswerConfig
from storage.answer_commit import answered_ids, commit_answers
from storage.answer_plans import AnswerPlan, get_answer_plan
from storage.lake import Lake, open_lake
from storage.schemas import Row
from tasks.adapter_cache import AdapterCache
from tasks.answer_batches import Outcomes
from tasks.answer_frames import ContextAnswerer, FrameReader
from tasks.answer_modes import AdapterAnswerer, Answerer, BlindAnswerer, Picker
from tasks.answer_recipe import AnswerRecipe, answer_recipe
from tasks.answer_summary import AnswerShardSummary
from tasks.answers_left import final_rejects
from tasks.meet_video import Reject
from tasks.models import load_model
from tasks.pick_many import pick_many
from tasks.progress import report
from tasks.unit_rows import common_columns
from video2lora_core.errors import Reason

logger = logging.getLogger(__name__)

_UNCOMMITTED = Reject(
    reason=Reason.ADAPTER_MISSING, detail="an earlier attempt committed the unit without it"
)


def answer_shard(
    config: AnswerConfig, *, run_id: str, shard: int, attempt_id: str
) -> AnswerShardSummary:
    """Answer what a shard's plan lists and the catalog lacks.

    Memory holds a unit's rows, one batch and `cache_bytes` of adapters or frames.
    """
    started = time.perf_counter()
    lake = open_lake(config.lake)
    plan = get_answer_plan(lake.objects, run_id)
    units = plan.units(shard)
    first = lake.next_unit(run_id, shard)
    done = AnswerShardSummary()
    if first < len(units):
        work = _ShardWork(config, lake, plan, units[first:], attempt_id=attempt_id)
        try:
            for unit in range(first, len(units)):
                done += work.do(shard, unit, units[unit])
        finally:
            work.close()
        done = replace(done, num_adapters_read=work.num_adapters_read)
    wall_s = time.perf_counter() - started
    logger.info("shard %d: %d questions answered, %.1f s", shard, done.num_answered, wall_s)
    return replace(done, wall_s=wall_s)


class _ShardWork:
    """What the units of a shard share."""

    def __init__(
        self,
        config: AnswerConfig,
        lake: Lake,
        plan: AnswerPlan,
        units: Sequence[Sequence[Row]],
        *,
        attempt_id: str,
    ) -> None:
        self._config, self._lake, self._plan = config, lake, plan
        self._recipe = answer_recipe(config)
        self._common = _common_columns(config, self._recipe, plan, attempt_id=attempt_id)
        self._rows = [row for unit in units for row in unit]
        ids = [row["answer_id"] for row in self._rows if row["answer_id"] is not None]
        only = plan.run_id if plan.header.is_again else None
        self._known = answered_ids(lake.catalog, ids, run_id=only)
        self._settled = self._settled_before()
        self._deleted = lake.deleted_videos()
        self._model_name = ""
        self._answerer: Answerer | None = None
        self._reader: FrameReader | None = None
        self._cache: AdapterCache | None = None

    @property
    def num_adapters_read(self) -> int:
        """Adapter files read so far."""
        return self._cache.num_read if self._cache else 0

    def do(self, shard: int, unit: int, rows: Sequence[Row]) -> AnswerShardSummary:
        """Answer and commit one unit."""
        open_rows = [row for row in rows if not self._is_done(row)]
        asked = [row for row in open_rows if row["reason"] is None and not self._is_deleted(row)]
        outcomes = self._answers(asked)
        made = [
            {**_question_columns(row), "model_name": self._model_name, **outcome}
            for row in asked
            if not isinstance(outcome := outcomes[row["question_id"]], Reject)
        ]
        rejected: list[Row] = []

        def rejects(answered: Collection[str]) -> Sequence[Row]:
            left = [row for row in open_rows if row["question_id"] not in answered]
            rejected.extend(self._reject_row(row, outcomes) for row in left)
            return rejected

        closed = commit_answers(
            self._lake.catalog,
            run_id=self._plan.run_id,
            shard=shard,
            unit=unit,
            answers=made,
            rejects=rejects,
            common=self._common,
        )
        report("questions", len(rows))
        report("rejects", len(rejected))
        return AnswerShardSummary(
            num_answered=len(made),
            num_known=sum(row["answer_id"] in self._known for row in rows),
            num_rejected=len(rejected),
            num_units=int(closed == "committed"),
        )

    def close(self) -> None:
        """End what decodes."""
        if self._reader is not None:
            self._reader.close()

    def _settled_before(self) -> set[str]:
        """Return the questions that earlier generations of this plan rejected for good."""
        header = self._plan.header
        earlier = [replace(header, generation=n).run_id for n in range(header.generation)]
        if not earlier or header.is_again:
            return set()
        settled = final_rejects(self._lake, earlier)
        return settled | {row["question_id"] for row in self._rows if row["reason"] is not None}

    def _is_done(self, row: Row) -> bool:
        return row["answer_id"] in self._known or row["question_id"] in self._settled

    def _is_deleted(self, row: Row) -> bool:
        return row["video_id"] in self._deleted

    def _answers(self, rows: Sequence[Row]) -> Outcomes:
        if not rows:
            return {}
        # Loaded with the first question that needs it: a shard without work needs no model.
        self._answerer = self._answerer or self._make_answerer()
        return self._answerer.answer(rows)

    def _make_answerer(self) -> Answerer:
        config, lake = self._config, self._lake
        model = load_model(self._recipe.recipe.model)
        self._model_name = model.vlm.name
        if config.mode == "blind":
            return BlindAnswerer(model, config)
        if config.mode == "adapter":
            adapters = pick_many(
                lake,
                {row["video_id"] for row in self._rows if row["video_id"] is not None},
                model=self._recipe.recipe.identity,
                allow_random=config.allow_random,
            )
            self._cache = AdapterCache(lake, model, capacity_bytes=config.cache_bytes)
            picker = Picker(adapters, self._recipe)
            return AdapterAnswerer(model, config, picker=picker, cache=self._cache)
        self._reader = FrameReader(lake, self._recipe.recipe.model, config)
        return ContextAnswerer(model, config, reader=self._reader)

    def _reject_row(self, row: Row, outcomes: Outcomes) -> Row:
        outcome = outcomes.get(row["question_id"])
        if row["reason"] is not None:
            why = {name: row[name] for name in ("reason", "detail", "is_terminal")}
        else:
            reject = outcome if isinstance(outcome, Reject) else _UNCOMMITTED
            if self._is_deleted(row):
                detail = f"video {row['video_id'][:12]}: it was deleted"
                reject = Reject(reason=Reason.VIDEO_UNKNOWN, detail=detail)
            why = {
                "reason": str(reject.reason),
                "detail": reject.detail,
                "is_terminal": reject.is_terminal,
            }
        names = ("question_id", "video_id", "start_us", "end_us")
        place = {name: row[name] for name in names}
        return {
            **place,
            **why,
            "mode": self._config.mode,
            "attempt": self._plan.header.generation + 1,
        }


def _common_columns(
    config: AnswerConfig, recipe: AnswerRecipe, plan: AnswerPlan, *, attempt_id: str
) -> Row:
    return {
        **common_columns(recipe.recipe, attempt_id=attempt_id),
        "mode": config.mode,
        "strategy": config.strategy if config.mode == "adapter" else None,
        "question_set": plan.header.question_set,
        "corpus": plan.header.question_set,
        "model_weights_sha256": recipe.recipe.identity.weights_sha256,
    }


def _question_columns(row: Row) -> Row:
    references = json.loads(row["references"])
    names = (
        "answer_id",
        "question_id",
        "question_type",
        "video_id",
        "question",
        "start_us",
        "end_us",
        "metadata",
    )
    return {
        **{name: row[name] for name in names},
        "reference": references[0] if references else None,
        "references": references,
    }
