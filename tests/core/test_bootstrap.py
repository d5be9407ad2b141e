"""Intervals over videos: against SciPy, against a plain loop, by hand, and what cannot be told."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from video2lora_core.bootstrap import (
    MIN_VIDEOS,
    Interval,
    geometric_mean_ratio,
    judge_margin,
    kept_share,
    mean_interval,
    paired_difference,
)
from video2lora_core.errors import UsageError


def corpus(seed: int, *, num_videos: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Values that lie near each other within a video, and the video of each."""
    generator = np.random.default_rng(seed)
    videos = np.repeat(np.arange(num_videos), generator.integers(1, most + 1, num_videos))
    return generator.normal(generator.normal(0.5, 0.2, num_videos)[videos], 0.1), videos


def ends(interval: Interval) -> tuple[float | None, float | None]:
    return interval.low, interval.high


def test_with_equal_numbers_of_questions_it_is_scipys_interval_of_the_videos_means() -> None:
    generator = np.random.default_rng(3)
    values = generator.random((40, 5)) * generator.random((40, 1))
    ours = mean_interval(values.ravel(), np.repeat(np.arange(40), 5), resamples=40_000)
    theirs = bootstrap(
        (values.mean(axis=1),), np.mean, n_resamples=40_000, method="percentile", rng=generator
    ).confidence_interval
    # Both ends are percentiles of 40,000 random means: they agree within their own noise.
    noise = 0.04 * (theirs.high - theirs.low)
    assert ends(ours) == pytest.approx((theirs.low, theirs.high), abs=noise)
    assert ours.value == pytest.approx(values.mean())


def test_with_unequal_numbers_it_is_what_a_plain_loop_over_videos_finds() -> None:
    values, videos = corpus(1, num_videos=25, most=9)
    generator = np.random.default_rng(0)
    groups = [values[videos == video] for video in range(25)]
    means = []
    for _ in range(2_000):
        drawn = [groups[video] for video in generator.integers(25, size=25)]
        means.append(np.concatenate(drawn).mean())
    assert ends(mean_interval(values, videos, resamples=2_000, seed=0)) == pytest.approx(
        tuple(np.percentile(means, [2.5, 97.5])), abs=1e-12
    )


def test_two_videos_by_hand() -> None:
    # Video x has (1, 1, 0), y has (0). Draws: xx -> 2/3, xy -> 2/4, yy -> 0, with 1/4, 1/2, 1/4.
    found = mean_interval([1, 1, 0, 0], ["x", "x", "x", "y"])
    assert found == Interval(value=0.5, low=0.0, high=2 / 3, num_videos=2, num_questions=4)


def test_the_same_seed_gives_the_same_interval_and_another_a_near_one() -> None:
    values, videos = corpus(2, num_videos=30, most=5)
    first, second = (mean_interval(values, videos, seed=seed) for seed in (0, 1))
    assert first == mean_interval(values, videos, seed=0)
    assert ends(first) != ends(second)
    assert ends(first) == pytest.approx(ends(second), rel=0.02)


def test_how_resamples_are_split_in_blocks_changes_nothing(monkeypatch: Any) -> None:
    values, videos = corpus(4, num_videos=30, most=5)
    whole = mean_interval(values, videos, resamples=500)
    monkeypatch.setattr("video2lora_core.bootstrap._BLOCK_DRAWS", 70)
    assert mean_interval(values, videos, resamples=500) == whole


@given(st.permutations(range(12)))
def test_names_of_videos_do_not_matter(names: list[int]) -> None:
    values, videos = corpus(5, num_videos=12, most=4)
    renamed = [f"video {names[video]}" for video in videos]
    assert mean_interval(values, renamed, resamples=200) == mean_interval(
        values, videos, resamples=200
    )


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 9))
def test_the_interval_moves_and_stretches_with_its_values(shift: float, scale: float) -> None:
    values, videos = corpus(6, num_videos=12, most=4)
    plain = mean_interval(values, videos, resamples=200)
    moved = mean_interval(values * scale + shift, videos, resamples=200)
    expected = [scale * end + shift for end in (plain.low, plain.high)]
    assert ends(moved) == pytest.approx(tuple(expected), abs=1e-9)


def test_a_difference_is_paired_so_what_both_share_cancels() -> None:
    values, videos = corpus(7, num_videos=40, most=6)
    found = paired_difference(values + 0.1, values, videos)
    assert (found.value, *ends(found)) == pytest.approx((0.1, 0.1, 0.1))
    assert (found.num_videos, found.num_questions) == (40, len(values))


def test_the_kept_share_is_a_ratio_of_means() -> None:
    values, videos = corpus(8, num_videos=40, most=6)
    positive = np.abs(values) + 0.1
    found = kept_share(0.8 * positive, positive, videos)
    assert (found.value, *ends(found)) == pytest.approx((0.8, 0.8, 0.8))


def test_the_kept_share_has_no_ends_where_a_resample_may_keep_nothing() -> None:
    found = kept_share([1, 0, 1], [1, 0, 1], ["x", "y", "z"])
    assert (found.value, *ends(found)) == (1.0, None, None)


def test_twice_as_fast_and_half_as_fast_cancel_in_the_geometric_mean() -> None:
    found = geometric_mean_ratio([2.0, 1.0], [1.0, 2.0], ["x", "y"])
    assert (found.value, *ends(found)) == pytest.approx((1.0, 0.5, 2.0))


@pytest.mark.parametrize("values", [[0.5], [0.0, 1.0, 1.0]])
def test_one_video_has_a_figure_but_no_interval_and_no_verdict(values: list[float]) -> None:
    found = mean_interval(values, ["only"] * len(values))
    assert found.value == pytest.approx(np.mean(values))
    assert ends(found) == (None, None)
    assert judge_margin(found, 0.05) == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.04, 0.04, "equivalent"),
        (0.01, 0.04, "equivalent"),
        (-0.04, 0.05, "non-inferior"),
        (0.2, 0.3, "non-inferior"),
        (-0.05, 0.0, "undecided"),
        (-0.2, 0.2, "undecided"),
        (-0.2, -0.05, "undecided"),
        (-0.2, -0.06, "inferior"),
        (None, None, "undecided"),
    ],
)
def test_verdicts(low: float | None, high: float | None, verdict: str) -> None:
    assert judge_margin(Interval(value=0.0, low=low, high=high), 0.05) == verdict


def test_few_videos_make_no_verdict() -> None:
    thin = Interval(value=0.0, low=0.0, high=0.0, num_videos=MIN_VIDEOS - 1)
    enough = Interval(value=0.0, low=0.0, high=0.0, num_videos=MIN_VIDEOS)
    assert [judge_margin(found, 0.05) for found in (thin, enough)] == ["undecided", "equivalent"]


@given(low=st.floats(-1, 1), width=st.floats(0, 1), margin=st.floats(0.01, 1))
def test_a_verdict_says_of_every_difference_in_the_interval_what_it_means(
    low: float, width: float, margin: float
) -> None:
    high = low + width
    verdict = judge_margin(Interval(value=low, low=low, high=high), margin)
    inside = [bool(-margin < difference < margin) for difference in (low, high)]
    assert (verdict == "equivalent") == all(inside)
    assert (verdict in {"equivalent", "non-inferior"}) == (low > -margin)
    assert (verdict == "inferior") == (high < -margin)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([], []), "no question"),
        (lambda: mean_interval([1.0], ["x", "y"]), "1 numbers for 2 videos"),
        (lambda: mean_interval([1.0, float("nan")], ["x", "y"]), "1 of 2 are not finite"),
        (lambda: paired_difference([1.0], [1.0, 2.0], ["x"]), "baseline: 2 numbers"),
        (lambda: geometric_mean_ratio([1.0, 0.0], [1.0, 1.0], ["x", "y"]), "more than 0"),
        (lambda: kept_share([1.0, 0.0], [0.0, 0.0], ["x", "y"]), "more than 0"),
        (lambda: mean_interval([1.0, 0.0], ["x", "y"], resamples=0), "below 1"),
        (lambda: judge_margin(Interval(value=0.0, low=0.0, high=0.0), 0.0), "not above 0"),
    ],
)
def test_what_has_no_figure_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_the_pages_worked_example_is_what_the_code_finds() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    generator = np.random.default_rng(7)
    videos = np.repeat(np.arange(30), 8)
    hard = generator.normal(0, 0.25, 30)[videos]
    context = (generator.random(240) < np.clip(0.75 + hard, 0, 1)).astype(float)
    adapter, differs = context.copy(), generator.random(240) < 0.08
    adapter[differs] = generator.random(differs.sum()) < 0.4
    mean, difference = mean_interval(context, videos), paired_difference(adapter, context, videos)
    drawn_singly = mean_interval(context, np.arange(240))
    shown = [
        f"In context {mean.value:.1%} are right, from adapters {adapter.mean():.1%}",
        f"is {difference.value:.3f} with the interval"
        f" {difference.low:.3f} to {difference.high:.3f}",
        f"{mean.low:.1%} to {mean.high:.1%} in context",
        f"{1 - width(drawn_singly) / width(mean):.0%} narrower",
    ]
    assert [text for text in shown if text not in page] == []
    verdicts = [judge_margin(difference, margin) for margin in (0.05, 0.02)]
    assert verdicts == ["equivalent", "undecided"]


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_ten_thousand_resamples_of_two_thousand_videos_stay_small_in_memory() -> None:
    values = np.random.default_rng(0).random(2_000)
    tracemalloc.start()
    try:
        mean_interval(values, np.arange(2_000))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # All draws at once would be 160 MB of positions.
    assert peak_bytes < 40e6
