"""The parts of an evaluation: measured once, kept in the lake, and never measured again.

    ROOT/evaluations/<evaluation_id>/<part>.json

An evaluation is named by what is asked, of what, and how: run again, it finds its parts; killed, it
goes on with the first that is missing. A part is created whole or not at all, and the first one
stands, so two runs at once agree.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.evaluate_schema import EvaluateConfig
from configs.schema import InternalizeConfig
from storage.errors import ObjectMissingError
from storage.identity import canonical_json, sha256_hex
from storage.lake import Lake, open_lake
from tasks.question_set import SetQuestion
from tasks.recipe import Recipe, make_recipe
from tasks.unit_rows import CODE_VERSION

logger = logging.getLogger(__name__)

_FORMAT = 1
_NOT_MEASURED = {"lake", "engine", "exam", "corpus", "questions"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What an evaluation is of; small enough to be handed from step to step."""

    evaluation_id: str
    recipe_id: str
    question_set: str
    """Where the questions were read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartSummary:
    """What measuring a part took."""

    part: str
    num_figures: int
    seconds: float
    is_new: bool
    """Whether it was measured now."""


def identify(
    config: EvaluateConfig, questions: Sequence[SetQuestion], *, question_set: str
) -> Evaluation:
    """Name an evaluation by its settings, its recipe and its questions."""
    recipe = recipe_of(config)
    settings = config.model_dump(mode="json", exclude=_NOT_MEASURED)
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
    )


def recipe_of(config: EvaluateConfig) -> Recipe:
    """Return the recipe whose adapters are evaluated."""
    return make_recipe(internalize_config(config, corpus="catalog:videos"))


def internalize_config(config: EvaluateConfig, *, corpus: str) -> InternalizeConfig:
    """Return the run config that makes the evaluation's adapters."""
    return InternalizeConfig(
        corpus=corpus, lake=config.lake, model=config.model, engine=config.engine
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


def read_questions(path: str) -> list[SetQuestion]:
    """Read a question set from a JSONL file."""
    return list(_lines(Path(path)))


def _lines(path: Path) -> Iterator[SetQuestion]:
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        yield SetQuestion(
            question_id=entry["question_id"],
            video=entry["video"],
            question=entry["question"],
            references=(entry["reference"],),
            question_type=entry["question_type"],
        )


def open_evaluated_lake(config: EvaluateConfig) -> Lake:
    """Open the lake of an evaluation."""
    return open_lake(config.lake)


def _name(evaluation: Evaluation, part: str) -> str:
    return f"evaluations/{evaluation.evaluation_id}/{part}.json"
