"""Figures of an evaluation: hand-worked means, differences and costs, and their rows."""

from collections.abc import Sequence

import pytest

from configs.evaluate_schema import CostConfig, EvaluateConfig
from storage.schemas import rows_to_arrow
from tasks.evaluate_comparison import Said, compare
from tasks.evaluate_cost import BREAK_EVEN, PER_QUESTION, amortised
from tasks.evaluate_figures import Figure, Score, difference_figure, figure_of, mean_figure, row_of

IDS = {"evaluation_id": "e", "recipe_id": "r", "question_set": "q"}


def said(video: int, text: str, *, kind: str | None = "colour", reference: str = "red") -> Said:
    return Said(
        question_id=f"{video}/{kind}",
        video_id=f"v{video}",
        question="?",
        references=(reference,) if reference else (),
        question_type=kind,
        text=text,
        num_prompt_tokens=10,
        num_visual_tokens=0,
    )


def settings(**changed: object) -> EvaluateConfig:
    values = {"lake": "lake", "questions": "q.jsonl", "num_resamples": 200}
    return EvaluateConfig.model_validate({**values, **changed})


def found(figures: list[Figure], **columns: object) -> Figure:
    (one,) = [f for f in figures if all(getattr(f, k) == v for k, v in columns.items())]
    return one


def test_a_figure_is_its_row_and_its_row_is_the_figure() -> None:
    figure = Figure(
        part="cost",
        condition="adapter",
        metric="seconds_per_question",
        value=0.25,
        num_questions=3,
        num_frames=8,
        detail={"questions_per_video": 15},
    )
    row = row_of(figure, **IDS)
    (stored,) = rows_to_arrow("evaluations", [row]).to_pylist()
    assert figure_of(stored) == figure
    assert stored["run_id"] == stored["evaluation_id"] == "e"


def test_means_differences_and_verdicts_are_those_of_the_answers() -> None:
    adapter = [said(n, "red" if n < 6 else "blue") for n in range(12)]
    context = [said(n, "red") for n in range(12)]
    figures = compare({"adapter": adapter, "in-context": context}, settings())
    of_all = {"metric": "token_f1", "question_type": None}
    assert found(figures, condition="adapter", baseline=None, **of_all).value == 0.5
    assert found(figures, condition="in-context", **of_all).value == 1.0
    difference = found(figures, condition="adapter", baseline="in-context", **of_all)
    assert (difference.value, difference.num_questions, difference.num_videos) == (-0.5, 12, 12)
    assert (difference.margin, difference.verdict) == (0.05, "inferior")


def test_answers_that_do_not_differ_are_equivalent_only_with_enough_videos() -> None:
    for num_videos, verdict in ((12, "equivalent"), (3, "undecided")):
        same = [said(n, "red") for n in range(num_videos)]
        figures = compare({"adapter": same, "in-context": same}, settings())
        (judged,) = {f.verdict for f in figures if f.margin is not None}
        assert judged == verdict


def test_only_questions_that_both_modes_answered_are_paired() -> None:
    adapter = [said(n, "blue") for n in range(4)]
    context = [said(n, "red") for n in range(2)]
    figures = compare({"adapter": adapter, "in-context": context}, settings())
    difference = found(figures, baseline="in-context", metric="exact_match", question_type="colour")
    assert (difference.value, difference.num_questions) == (-1.0, 2)


class Fair:
    """Gives half a point to what is right, and none to the second answer."""

    def scores(self, asked: Sequence[tuple[str, str, Sequence[str]]]) -> list[float | None]:
        given = [0.5 * (answer in references) for _, answer, references in asked]
        return [None if place == 1 else score for place, score in enumerate(given)]


def test_a_judges_scores_stand_beside_the_others_and_have_their_own_margin() -> None:
    same = [said(n, "red") for n in range(12)]
    figures = compare({"adapter": same, "in-context": same}, settings(), judge=Fair())
    of_all = {"metric": "judge", "question_type": None}
    figure = found(figures, condition="in-context", **of_all)
    assert (figure.value, figure.num_questions) == (0.5, 11)
    difference = found(figures, condition="adapter", baseline="in-context", **of_all)
    assert (difference.margin, difference.verdict) == (0.15, "equivalent")


def test_each_type_is_shown_apart_and_questions_without_a_type_count_in_all() -> None:
    listed = [said(0, "red"), said(1, "up", kind="motion"), said(2, "red", kind=None)]
    figures = compare({"adapter": listed}, settings())
    exact = [f for f in figures if f.metric == "exact_match"]
    assert [(f.question_type, round(f.value, 3), f.num_questions) for f in exact] == [
        (None, 0.667, 3),
        ("colour", 1.0, 1),
        ("motion", 0.0, 1),
    ]


def test_without_references_there_is_no_accuracy_but_there_are_token_counts() -> None:
    figures = compare({"adapter": [said(0, "red", reference="")]}, settings())
    assert {f.metric for f in figures} == {"num_prompt_tokens", "num_visual_tokens"}


def test_one_video_has_no_interval_and_no_answer_has_no_figure() -> None:
    score = Score(question_id="1", video_id="v", question_type=None, values={"token_f1": 0.5})
    how = {"part": "p", "metric": "token_f1", "resamples": 100}
    figure = mean_figure([score, score], condition="adapter", **how)
    assert figure is not None
    assert (figure.value, figure.low, figure.high, figure.num_videos) == (0.5, None, None, 1)
    assert mean_figure([], condition="adapter", **how) is None
    names = ("adapter", "in-context")
    assert difference_figure([score], [], names=names, margin=0.05, **how) is None


def timed(way: str, **seconds: float) -> list[Figure]:
    return [
        Figure(part="cost", condition=way, metric=name, value=v, num_questions=4, num_frames=8)
        for name, v in seconds.items()
    ]


def test_costs_are_spread_over_questions_as_worked_by_hand() -> None:
    figures = timed(
        "adapter", decode_s=1.0, internalize_s=2.0, load_s=0.5, compose_s=0.5, answer_s=0.1
    )
    figures += timed("in-context", decode_s=1.0, answer_s=0.6)
    spread = amortised(figures, CostConfig(num_questions=(1, 10)))
    per_question = {
        (f.condition, f.detail["questions_per_video"]): f.value
        for f in spread
        if f.metric == PER_QUESTION
    }
    assert per_question == pytest.approx(
        {("adapter", 1): 4.1, ("adapter", 10): 0.5, ("in-context", 1): 1.6, ("in-context", 10): 0.7}
    )
    # Three seconds more at the start, half a second less with every question.
    assert found(spread, metric=BREAK_EVEN).value == pytest.approx(6.0)


def test_a_way_that_was_not_timed_whole_is_not_spread() -> None:
    figures = timed("adapter", decode_s=1.0, answer_s=0.1) + timed("in-context", answer_s=0.6)
    assert amortised(figures, CostConfig()) == []
