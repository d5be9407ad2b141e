"""The report shows its figures as they are, and stands where there are few or none."""

import re
from collections.abc import Sequence
from typing import Any

import pytest

from tasks.evaluate_figures import Figure
from tasks.report_evaluation import Shown, render_report
from tasks.report_figures import Figures, style_of, with_interval

EVERY_PART = {
    part: {"seconds": 1.0, "cpu_seconds": 0.5}
    for part in ("comparison", "cost", "composition", "ranks", "sweep")
}


def figure(part: str, condition: str, value: float, **more: Any) -> Figure:
    given = {"metric": "token_f1", "num_questions": 4, "num_videos": 2, "low": None, "high": None}
    return Figure(part=part, condition=condition, value=value, **{**given, **more})


def page(figures: Sequence[Figure], examples: Sequence[dict[str, Any]] = (), **parts: Any) -> str:
    shown = Shown(
        title="Evaluation of tiny",
        facts=[("model", "tiny")],
        figures=figures,
        examples=examples,
        parts=parts or EVERY_PART,
    )
    return render_report(shown)


def headings(html: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", html)


def cells(html: str) -> list[str]:
    return re.findall(r"<td[^>]*>(.*?)</td>", html)


def comparison(**more: Any) -> list[Figure]:
    return [
        figure("comparison", "adapter", 0.9, low=0.8, high=0.97, **more),
        figure("comparison", "in-context", 0.95, low=0.9, high=1.0, **more),
        figure(
            "comparison",
            "adapter",
            -0.05,
            baseline="in-context",
            low=-0.11,
            high=0.01,
            margin=0.05,
            verdict="undecided",
            **more,
        ),
    ]


def test_a_report_without_any_figure_says_what_is_missing() -> None:
    html = page([])
    assert "No question could be answered" in html
    assert "No question of this set has a reference answer" in html
    assert "This cannot be said here" in html
    assert "Not every way could be timed" in html
    assert "No cell could be measured" in html


def test_parts_that_were_not_asked_for_have_no_section() -> None:
    html = page(comparison(), comparison={"seconds": 1.0, "cpu_seconds": 1.0})
    assert "Frames and resolution" not in headings(html)
    assert "Which ranks carry the answer" not in headings(html)


def test_one_type_and_all_types_stand_beside_each_other() -> None:
    html = page(comparison() + comparison(question_type="motion"))
    shown = cells(html)
    assert shown.count("0.900 [0.800,\u00a00.970]") == 2
    assert shown.count("-0.050 [-0.110,\u00a00.010]") == 2
    assert shown.count("undecided") == 2
    assert "token-F1, adapter minus in context: -0.050" in html


def test_one_mode_alone_makes_no_difference_and_no_verdict() -> None:
    html = page(comparison()[:1])
    assert "This cannot be said here" in html
    assert "equivalent." not in html


def test_a_single_video_has_no_interval_and_is_drawn_all_the_same() -> None:
    alone = [figure("comparison", "adapter", 0.5, num_videos=1)]
    html = page(alone)
    assert "0.500 (no interval)" in cells(html)
    assert "<svg" in html


def test_cells_that_were_not_measured_are_marked() -> None:
    swept = [
        figure("sweep", way, 0.5 + 0.1 * place, num_frames=n, size_px=px)
        for place, (way, n, px) in enumerate(
            [("adapter", 2, 24), ("adapter", 4, 24), ("adapter", 4, 48), ("in-context", 2, 24)]
        )
    ]
    html = page(swept)
    assert html.count("n/a</text>") == 4  # one of the adapter's four cells, three in context
    assert cells(html).count("-") >= 2


def test_a_perfect_sweep_and_a_single_way_are_drawn() -> None:
    swept = [figure("sweep", "adapter", 1.0, num_frames=2, size_px=24)]
    assert "1.00</text>" in page(swept)


def cost(condition: str, metric: str, value: float, **more: Any) -> Figure:
    return figure("cost", condition, value, metric=metric, **{"num_frames": 8, **more})


def test_costs_are_shown_for_the_ways_that_were_timed() -> None:
    timed = [
        cost("adapter", "time_to_first_token_s", 0.005),
        cost("adapter", "num_prompt_tokens", 11.0),
        cost("in-context-kv-cache", "time_to_first_token_s", 0.004),
        cost("in-context-kv-cache", "num_prompt_tokens", 51.0),
        cost("adapter", "seconds_per_question", 0.02, detail={"questions_per_video": 5}),
    ]
    html = page(timed)
    assert {"5", "11", "4", "51", "20"} <= set(cells(html))
    assert "in-context, ms" not in html


def test_variations_are_shown_with_their_intervals() -> None:
    varied = [
        figure("composition", "sum", 0.7, num_segments=8, low=0.6, high=0.8),
        figure("ranks", "all ranks", 0.99, rank=8),
        figure("ranks", "top-k", 0.81, rank=2, low=0.7, high=0.9),
    ]
    shown = cells(page(varied))
    assert "0.700 [0.600,\u00a00.800]" in shown
    assert "0.810 [0.700,\u00a00.900]" in shown


def test_an_example_can_be_judged_and_cannot_become_markup() -> None:
    example = {
        "question": "<b>What</b>?",
        "question_type": "colour",
        "references": ["red", "crimson"],
        "seconds": [0.0, 4.0],
        "answers": [["adapter", "blue", False], ["in-context", "", True], ["blind", "x", None]],
        "jpeg": None,
    }
    html = page([], [example])
    assert "Example 1 (colour): &lt;b&gt;What&lt;/b&gt;?" in headings(html)
    assert {"red / crimson", "blue", "wrong", "(nothing)", "right"} <= set(cells(html))


def test_a_mode_has_one_colour_and_no_two_conditions_share_one() -> None:
    with_sums = ["sum", "route-compose", "in-context"]
    alone = ["adapter", "in-context"]
    assert style_of("in-context", with_sums) == style_of("in-context", alone)
    assert len({style_of(name, with_sums)["color"] for name in with_sums}) == 3


def test_figures_are_found_by_their_columns() -> None:
    figures = Figures(comparison())
    assert figures.one(condition="blind") is None
    assert with_interval(None) == "-"
    assert with_interval(figures.one(condition="in-context")) == "0.950 [0.900,\u00a01.000]"
    assert figures.one(baseline="in-context").value == pytest.approx(-0.05)  # type: ignore[union-attr]
