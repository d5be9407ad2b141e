"""The first step of answering: every row of a question set joined with the catalog, in one plan.

The catalog is asked a fixed number of times, whatever the number of questions. What cannot be asked
is a reject of the plan, so that each row of the set ends in exactly one place.
"""

import itertools
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from configs.answer_schema import AnswerConfig
from storage.answer_plans import (
    QUESTION_SCHEMA,
    AnswerHeader,
    AnswerPlan,
    put_answer_plan,
    shard_hashes,
    sort_questions,
)
from storage.identity import canonical_json
from storage.lake import Lake, open_lake
from storage.remote import is_remote
from storage.schemas import Row
from storage.video_names import Named, resolve_videos
from tasks.answer_recipe import AnswerRecipe, answer_recipe, question_set
from tasks.answer_summary import AnswerPlanSummary
from tasks.answers_left import is_settled
from tasks.meet_video import Reject
from tasks.pick_many import ManyAdapters, pick_many
from tasks.progress import report
from tasks.question_files import is_select, read_questions
from tasks.question_set import BadQuestion, SetQuestion
from tasks.unit_rows import common_columns
from video2lora_core.errors import Reason

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE: Final = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A question set with what the catalog says about its videos."""

    questions: list[SetQuestion | BadQuestion]
    named: dict[str, Named]
    """By the name that the set gives a video."""
    adapters: ManyAdapters


def join_questions(config: AnswerConfig, lake: Lake, recipe: AnswerRecipe) -> Joined:
    """Read a question set and look its videos up, all at once."""
    questions = list(read_questions(config.questions, lake))
    named = resolve_videos(lake.catalog, (q.video for q in questions if isinstance(q, SetQuestion)))
    video_ids = {named.video_id for named in named.values() if named.video_id is not None}
    adapters = pick_many(
        lake,
        video_ids,
        model=recipe.recipe.identity,
        allow_random=config.allow_random,
        is_adapter_mode=config.mode == "adapter",
    )
    return Joined(questions=questions, named=named, adapters=adapters)


def plan_answers(config: AnswerConfig, *, attempt_id: str) -> AnswerPlanSummary:
    """Plan the answers that a question set asks for, and store the plan.

    Raises:
        UsageError: the question set cannot be read.
        LakeError: there is no lake.
    """
    started = time.perf_counter()
    lake = open_lake(config.lake)
    recipe = answer_recipe(config)
    joined = join_questions(config, lake, recipe)
    questions = sort_questions(_table(planned_rows(joined, config, recipe)))
    plan, num_shards = _generation(lake, config, recipe, questions)
    if num_shards and lake.next_unit(plan.run_id, 0) == 0:
        _note_plan(lake, config, recipe, plan, attempt_id=attempt_id)
    num_videos = len(set(questions["video_id"].drop_null().to_pylist()))
    report("questions_planned", questions.num_rows)
    logger.info(
        "run %s: %d questions in %d shards", plan.run_id[:12], questions.num_rows, num_shards
    )
    return AnswerPlanSummary(
        run_id=plan.run_id,
        num_questions=questions.num_rows,
        num_videos=num_videos,
        num_shards=num_shards,
        seconds=time.perf_counter() - started,
    )


def missing_videos(config: AnswerConfig) -> list[str]:
    """List the URIs of videos that are asked about and lack what the mode needs."""
    lake = open_lake(config.lake)
    joined = join_questions(config, lake, answer_recipe(config))
    ids = {n.video_id for n in joined.named.values() if n.video_id is not None}
    lacking = ids - joined.adapters.rows.keys() if config.mode == "adapter" else set()
    where = pc.field("video_id").isin(pa.array(sorted(lacking), pa.string()))
    rows = lake.catalog.read("videos", columns=("video_id", "uri"), where=where).to_pylist()
    unknown = (name for name, n in joined.named.items() if not n.video_id and not n.is_deleted)
    files = (_as_file(name, config.questions) for name in unknown)
    return sorted({row["uri"] for row in rows} | {uri for uri in files if uri is not None})


def planned_rows(joined: Joined, config: AnswerConfig, recipe: AnswerRecipe) -> Iterator[Row]:
    """Yield the plan's row of every row of the set."""
    for item in joined.questions:
        if isinstance(item, BadQuestion):
            reject = Reject(reason=item.reason, detail=item.detail)
            yield {"question_id": item.question_id, **_reject_columns(reject)}
        else:
            yield _question_row(item, joined, config, recipe)


def _question_row(
    item: SetQuestion, joined: Joined, config: AnswerConfig, recipe: AnswerRecipe
) -> Row:
    named, span = joined.named[item.video], (item.start_us, item.end_us)
    row: dict[str, Any] = {
        "question_id": item.question_id,
        "video_id": named.video_id,
        "question": item.question,
        "start_us": item.start_us,
        "end_us": item.end_us,
        "references": canonical_json(list(item.references)),
        "question_type": item.question_type,
        "metadata": canonical_json(dict(item.metadata)) if item.metadata else None,
    }
    picked = _picked(named, span, joined, config)
    if isinstance(picked, Reject):
        return row | _reject_columns(picked)
    ids = [adapter["adapter_sha256"] for adapter in picked]
    return row | {
        "recipe_id": picked[0]["recipe_id"] if picked else recipe.recipe.recipe_id,
        "answer_id": recipe.answer_id(
            question_id=item.question_id,
            question=item.question,
            video_id=named.video_id or "",
            span=span,
            adapters=ids,
        ),
    }


def _picked(
    named: Named, span: tuple[int | None, int | None], joined: Joined, config: AnswerConfig
) -> tuple[Row, ...] | Reject:
    if named.video_id is None:
        reason = Reason.VIDEO_AMBIGUOUS if named.is_ambiguous else Reason.VIDEO_UNKNOWN
        return Reject(reason=reason, detail=named.detail)
    if config.mode == "adapter":
        return joined.adapters.pick(named.video_id, span)
    return joined.adapters.outside(named.video_id, span) or ()


def _reject_columns(reject: Reject) -> dict[str, Any]:
    return {
        "reason": str(reject.reason),
        "is_terminal": reject.is_terminal,
        "detail": reject.detail,
    }


def _table(rows: Iterable[Row]) -> pa.Table:
    rows = iter(rows)
    tables = [QUESTION_SCHEMA.empty_table()]
    while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        tables.append(pa.Table.from_pylist(group, schema=QUESTION_SCHEMA))
    return pa.concat_tables(tables)


def _generation(
    lake: Lake, config: AnswerConfig, recipe: AnswerRecipe, questions: pa.Table
) -> tuple[AnswerPlan, int]:
    """Store the plan under its first generation that is not finished; of how many shards."""
    shard_questions = config.unit_questions * config.shard_units
    hashes = shard_hashes(questions, shard_questions)
    finished: list[str] = []
    for generation in itertools.count():
        header = AnswerHeader(
            settings=recipe.settings,
            question_set=question_set(config),
            generation=generation,
            is_again=config.again,
            num_questions=questions.num_rows,
            unit_questions=config.unit_questions,
            shard_questions=shard_questions,
            shards=hashes,
        )
        if not lake.is_published(header.run_id):
            break
        finished.append(header.run_id)
    if finished and not config.again and is_settled(lake, questions, finished):
        return AnswerPlan(run_id=finished[-1], header=header, objects=lake.objects), 0
    return put_answer_plan(lake.objects, header, questions), len(hashes)


def _note_plan(
    lake: Lake, config: AnswerConfig, recipe: AnswerRecipe, plan: AnswerPlan, *, attempt_id: str
) -> None:
    noted = {
        "run_id": plan.run_id,
        "event": "planned",
        "corpus": question_set(config),
        "detail": f"{plan.header.num_questions} questions, mode {config.mode}",
    }
    lake.append("runs", [{**common_columns(recipe.recipe, attempt_id=attempt_id), **noted}])


def _as_file(name: str, questions: str) -> str | None:
    """Return the file that a name of no known video is the path of."""
    if is_remote(name):
        return name
    folders = (
        [Path()]
        if is_select(questions) or is_remote(questions)
        else [
            Path(),
            Path(questions).expanduser().parent,
        ]
    )
    for folder in folders:
        path = folder / Path(name).expanduser()
        if path.is_file():
            return os.path.normpath(path.absolute())
    return None
