"""The steps of an evaluation: prepare, measure part by part, write the figures once."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from configs.evaluate_schema import EvaluateConfig
from configs.load import load_model_config
from configs.schema import ModelConfig
from storage.lake import Lake, open_lake
from tasks.evaluate_answers import answers_in_modes
from tasks.evaluate_comparison import PART as COMPARISON
from tasks.evaluate_comparison import compare
from tasks.evaluate_corpus import EvaluatedVideo, evaluated_videos
from tasks.evaluate_cost import measure_cost
from tasks.evaluate_exam import render_exam
from tasks.evaluate_examples import make_examples
from tasks.evaluate_figures import Figure, as_json, figure_of, from_json, row_of
from tasks.evaluate_parts import (
    Evaluation,
    PartSummary,
    identify,
    keep_part,
    read_part,
    read_questions,
)
from tasks.evaluate_sweeps import measure_composition, measure_ranks, measure_sweep
from tasks.models import LoadedModel, load_model
from tasks.report_accuracy import verdict_lines
from tasks.report_evaluation import Shown, render_report
from tasks.report_figures import Figures

logger = logging.getLogger(__name__)

Measure = Callable[
    [Sequence[EvaluatedVideo], LoadedModel, ModelConfig, EvaluateConfig], list[Figure]
]
VARIED: Mapping[str, Measure] = {
    "cost": measure_cost,
    "composition": measure_composition,
    "ranks": measure_ranks,
    "sweep": measure_sweep,
}
"""Parts that are measured beside the comparison, where the config has their section."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """Where an evaluation's videos and questions are."""

    corpus: str | None
    """None where the lake holds the adapters already."""
    questions: str


def prepare(config: EvaluateConfig) -> Given:
    """Render the exam, or take the user's own videos and questions."""
    if config.exam is None:
        return Given(corpus=config.corpus, questions=str(config.questions))
    rendered = render_exam(config.exam)
    return Given(corpus=rendered.corpus, questions=rendered.questions)


def name_evaluation(config: EvaluateConfig, given: Given) -> Evaluation:
    """Read the questions and name the evaluation."""
    return identify(config, read_questions(given.questions), question_set=given.questions)


def measured_parts(config: EvaluateConfig) -> list[str]:
    """List the parts that a config asks for."""
    return [COMPARISON, *(part for part in VARIED if getattr(config, part) is not None)]


def measure_part(config: EvaluateConfig, evaluation: Evaluation, part: str) -> PartSummary:
    """Measure one part, or find it measured."""
    lake = open_lake(config.lake)
    measure = _compare if part == COMPARISON else _vary
    content, is_new = keep_part(
        lake, evaluation, part, lambda: measure(lake, config, evaluation, part)
    )
    return PartSummary(
        part=part,
        num_figures=len(content["figures"]),
        seconds=content["seconds"],
        is_new=is_new,
    )


def write_figures(config: EvaluateConfig, evaluation: Evaluation) -> int:
    """Append every part's figures to `evaluations`, exactly once; return how many rows are new."""
    lake = open_lake(config.lake)
    found = [read_part(lake, evaluation, part) for part in measured_parts(config)]
    figures = [f for content in found if content for f in from_json(content["figures"])]
    rows = [
        row_of(
            figure,
            evaluation_id=evaluation.evaluation_id,
            recipe_id=evaluation.recipe_id,
            question_set=evaluation.question_set,
        )
        for figure in figures
    ]
    transaction = (f"evaluation:{evaluation.evaluation_id}", 0)
    return len(rows) if lake.append("evaluations", rows, transaction=transaction) else 0


def read_figures(lake: Lake, evaluation: Evaluation) -> list[Figure]:
    """Return the figures that stand in the catalog."""
    where = pc.field("evaluation_id") == evaluation.evaluation_id
    return [figure_of(row) for row in lake.catalog.read("evaluations", where=where).to_pylist()]


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """A report that was written."""

    path: str
    verdicts: tuple[str, ...]


def write_report(config: EvaluateConfig, evaluation: Evaluation, *, out: Path) -> Written:
    """Draw the report from the catalog's rows and write it as one file."""
    lake = open_lake(config.lake)
    figures = read_figures(lake, evaluation)
    parts = {part: read_part(lake, evaluation, part) or {} for part in measured_parts(config)}
    shown = Shown(
        title=f"Evaluation of {config.model}",
        facts=_facts(config, evaluation, figures),
        figures=figures,
        examples=parts[COMPARISON].get("examples", ()),
        parts=parts,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(render_report(shown), encoding="utf-8")
    partial.replace(out)
    return Written(path=str(out), verdicts=tuple(verdict_lines(Figures(figures))))


def _facts(
    config: EvaluateConfig, evaluation: Evaluation, figures: Sequence[Figure]
) -> list[tuple[str, str]]:
    compared = [f for f in figures if f.part == COMPARISON and f.question_type is None]
    most = max(compared, key=lambda f: f.num_questions, default=None)
    asked = f"{most.num_questions} about {most.num_videos} videos" if most else "none"
    return [
        ("model", config.model),
        ("questions per mode", asked),
        ("modes", ", ".join(config.modes)),
        ("longest answer", f"{config.max_new_tokens} tokens"),
        ("resamples behind an interval", str(config.num_resamples)),
        ("question set", evaluation.question_set),
        ("recipe", evaluation.recipe_id),
        ("evaluation", evaluation.evaluation_id),
    ]


def _videos(lake: Lake, evaluation: Evaluation) -> list[EvaluatedVideo]:
    questions = read_questions(evaluation.question_set)
    return evaluated_videos(lake, questions, recipe_id=evaluation.recipe_id)


def _compare(
    lake: Lake, config: EvaluateConfig, evaluation: Evaluation, part: str
) -> dict[str, Any]:
    model_config = load_model_config(config.model)
    videos = _videos(lake, evaluation)
    said = answers_in_modes(
        lake,
        videos,
        load_model(model_config),
        model_config,
        config,
        recipe_id=evaluation.recipe_id,
    )
    return {
        "figures": as_json(compare(said, config)),
        "examples": make_examples(said, videos, count=config.num_examples),
    }


def _vary(lake: Lake, config: EvaluateConfig, evaluation: Evaluation, part: str) -> dict[str, Any]:
    model_config = load_model_config(config.model)
    model = load_model(model_config)
    figures = VARIED[part](_videos(lake, evaluation), model, model_config, config)
    return {"figures": as_json(figures)}
