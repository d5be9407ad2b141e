"""Figures: what an evaluation measured, each with its interval, as a row of `evaluations`.

One figure is one row, and a report is drawn from rows: nothing stands in a report that a query
could not find.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from storage.schemas import Row
from video2lora_core.bootstrap import Interval, judge_margin, mean_interval, paired_difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured number; the names are those of the columns."""

    part: str
    """The part of the evaluation that measured it."""
    condition: str
    metric: str
    value: float
    num_questions: int
    num_videos: int | None = None
    low: float | None = None
    high: float | None = None
    baseline: str | None = None
    question_type: str | None = None
    """None stands for all types."""
    margin: float | None = None
    verdict: str | None = None
    num_frames: int | None = None
    size_px: int | None = None
    rank: int | None = None
    num_segments: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    """What has no column of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How right one answer was, by metric, each from 0 to 1."""

    question_id: str
    video_id: str
    question_type: str | None
    values: Mapping[str, float]


def row_of(figure: Figure, *, evaluation_id: str, recipe_id: str, question_set: str) -> Row:
    """Return a figure as a row of the table `evaluations`."""
    columns = {f.name: getattr(figure, f.name) for f in fields(Figure)}
    detail = {"part": columns.pop("part"), **columns.pop("detail")}
    return columns | {
        "run_id": evaluation_id,
        "evaluation_id": evaluation_id,
        "recipe_id": recipe_id,
        "question_set": question_set,
        "detail": json.dumps(detail, sort_keys=True),
    }


def figure_of(row: Row) -> Figure:
    """Return the figure that a row holds."""
    detail = json.loads(row["detail"])
    part = detail.pop("part")
    names = {f.name for f in fields(Figure)} - {"part", "detail"}
    return Figure(part=part, detail=detail, **{name: row[name] for name in names})


def as_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return figures as JSON."""
    return [asdict(figure) for figure in figures]


def from_json(content: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """Return what `as_json` made."""
    return [Figure(**entry) for entry in content]


def mean_figure(
    scores: Sequence[Score], *, part: str, condition: str, metric: str, resamples: int, **more: Any
) -> Figure | None:
    """Return the mean of a metric with its interval; None where there is nothing to average."""
    kept = [score for score in scores if metric in score.values]
    if not kept:
        return None
    found = mean_interval(
        [score.values[metric] for score in kept],
        [score.video_id for score in kept],
        resamples=resamples,
    )
    return _figure(found, kept, part=part, condition=condition, metric=metric, **more)


def difference_figure(
    scores: Sequence[Score],
    baseline: Sequence[Score],
    *,
    part: str,
    names: tuple[str, str],
    metric: str,
    margin: float | None,
    resamples: int,
    **more: Any,
) -> Figure | None:
    """Return the mean difference over the questions that both answered, and its verdict.

    `names` are the condition and the one that it is held against.
    """
    before = {s.question_id: s.values[metric] for s in baseline if metric in s.values}
    kept = [s for s in scores if metric in s.values and s.question_id in before]
    if not kept:
        return None
    found = paired_difference(
        [score.values[metric] for score in kept],
        [before[score.question_id] for score in kept],
        [score.video_id for score in kept],
        resamples=resamples,
    )
    verdict = None if margin is None else judge_margin(found, margin)
    return _figure(
        found,
        kept,
        part=part,
        condition=names[0],
        baseline=names[1],
        metric=metric,
        margin=margin,
        verdict=verdict,
        **more,
    )


def _figure(found: Interval, scores: Sequence[Score], **columns: Any) -> Figure:
    return Figure(
        value=found.value,
        low=found.low,
        high=found.high,
        num_questions=len(scores),
        num_videos=len({score.video_id for score in scores}),
        **columns,
    )
