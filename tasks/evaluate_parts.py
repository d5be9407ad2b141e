"""The parts of an evaluation: measured once, kept in the lake, and never measured again.

    ROOT/evaluations/<evaluation_id>/<part>.json

An evaluation is named by what is asked, of what, and how: run again, it finds its parts; killed, it
goes on with the first that is missing. A part is created whole or not at all, and the first one
stands, so two runs at once agree.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from configs.answer_schema import AnswerConfig
from configs.evaluate_schema import EvaluateConfig
from configs.schema import InternalizeConfig
from storage.errors import ObjectMissingError
from storage.identity import canonical_json, sha256_hex
from storage.lake import Lake
from tasks.question_files import read_questions
from tasks.question_set import Mode, SetQuestion
from tasks.recipe import Recipe, make_recipe
from tasks.unit_rows import CODE_VERSION

logger = logging.getLogger(__name__)

_FORMAT = 1
_NOT_MEASURED = {"lake", "engine", "exam", "corpus", "questions", "decode"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an evaluation is of; small enough to be handed from step to step."""

    evaluation_id: str
    recipe_id: str
    question_set: str
    """Where the questions were read."""
    runs: Mapping[str, str]
    """By mode: the run whose answers are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSummary:
    """What measuring a part took."""

    part: str
    num_figures: int
    seconds: float
    is_new: bool
    """Whether it was measured now."""


def identify(
    config: EvaluateConfig,
    questions: Sequence[SetQuestion],
    *,
    question_set: str,
    runs: Mapping[str, str],
) -> Evaluation:
    """Name an evaluation by its settings, its recipe and its questions."""
    recipe = recipe_of(config)
    settings = config.model_dump(mode="json", exclude=_NOT_MEASURED, exclude_none=True)
    content = {
        "format": _FORMAT,
        "code_version": CODE_VERSION,
        "settings": settings,
        "recipe_id": recipe.recipe_id,
        "questions": sha256_hex(canonical_json([asdict(q) for q in questions]).encode()),
    }
    return Evaluation(
        evaluation_id=sha256_hex(canonical_json(content).encode()),
        recipe_id=recipe.recipe_id,
        question_set=question_set,
        runs=runs,
    )


def recipe_of(config: EvaluateConfig) -> Recipe:
    """Return the recipe whose adapters are evaluated."""
    return make_recipe(internalize_config(config, corpus="catalog:videos"))


def internalize_config(config: EvaluateConfig, *, corpus: str) -> InternalizeConfig:
    """Return the run config that makes the evaluation's adapters."""
    return InternalizeConfig(
        corpus=corpus,
        lake=config.lake,
        model=config.model,
        engine=config.engine,
        decode=config.decode,
    )


def keep_part(
    lake: Lake, evaluation: Evaluation, part: str, measure: Callable[[], dict[str, Any]]
) -> tuple[dict[str, Any], bool]:
    """Return a part from the lake, or measure it and keep it; say whether it was measured."""
    found = read_part(lake, evaluation, part)
    if found is not None:
        return found, False
    started, cpu = time.perf_counter(), time.process_time()
    content = measure()
    content["seconds"] = time.perf_counter() - started
    content["cpu_seconds"] = time.process_time() - cpu
    lake.objects.create(_name(evaluation, part), canonical_json(content).encode())
    kept = read_part(lake, evaluation, part)
    assert kept is not None
    return kept, True


def read_part(lake: Lake, evaluation: Evaluation, part: str) -> dict[str, Any] | None:
    """Return a part that was measured; None where it was not yet."""
    try:
        content: dict[str, Any] = json.loads(lake.objects.read(_name(evaluation, part)))
    except ObjectMissingError:
        return None
    return content


def set_questions(lake: Lake, question_set: str) -> list[SetQuestion]:
    """Read a question set; rows that are no questions are left out (answering rejects them)."""
    rows = read_questions(question_set, lake)
    return [row for row in rows if isinstance(row, SetQuestion)]


def answer_config(config: EvaluateConfig, mode: Mode, *, question_set: str) -> AnswerConfig:
    """Return how one mode of the comparison is asked."""
    return AnswerConfig(
        questions=question_set,
        lake=config.lake,
        model=config.model,
        mode=mode,
        max_new_tokens=config.max_new_tokens,
        engine=config.engine,
        decode=config.decode.model_copy(update={"workers": min(1, config.decode.workers)}),
    )


def _name(evaluation: Evaluation, part: str) -> str:
    return f"evaluations/{evaluation.evaluation_id}/{part}.json"
