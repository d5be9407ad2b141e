"""How sure is a mean? 95% intervals by the bootstrap, with whole videos drawn again.

Questions about one video are right or wrong together, so they are no independent draws: an interval
from resampled questions is too narrow. Here a resample draws as many videos as there are, with
repetition, and takes all questions of each; the statistic is the mean over all questions drawn (a
ratio of two sums, for videos have different numbers of questions), and the interval reaches from
the 2.5th to the 97.5th percentile of 10,000 resamples. What that covers is measured in
tests/core/test_bootstrap_coverage.py and told in docs/metrics.md.

One video says nothing about others: its interval has no ends (None), and no verdict follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from video2lora_core.errors import UsageError

Verdict = Literal["equivalent", "non-inferior", "inferior", "undecided"]
Numbers = Sequence[float] | Sequence[int] | Sequence[bool] | NDArray[Any]
Ids = Sequence[Any] | NDArray[Any]
"""One id per question; equal ids are one video."""

RESAMPLES = 10_000
CONFIDENCE = 0.95

MIN_VIDEOS = 10
"""Fewer make no verdict: the percentile interval of 10 videos covers about 90%, of 5 about 83%."""

# Draws that are in memory at once: 8 MB of positions, whatever the number of resamples.
_BLOCK_DRAWS = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A figure with its 95% interval."""

    value: float
    """The figure of the questions as they are, not a mean of resamples."""
    low: float | None
    """Lower end; None where no interval can be made."""
    high: float | None
    """Upper end; None where no interval can be made."""
    num_videos: int | None = None
    """Videos that were resampled; None where it is not known."""
    num_questions: int | None = None
    """Questions that the figure is of."""


def mean_interval(
    values: Numbers, videos: Ids, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean over all questions and its interval over videos.

    Args:
        values: One finite number per question.
        videos: The video of each question.
        resamples: Draws of the bootstrap.
        seed: The same seed and videos give the same draws.

    Raises:
        UsageError: no values, values that are not finite, or not as many videos as values.
    """
    numbers = _checked("values", values, videos)
    return _ratio_interval(numbers, np.ones_like(numbers), videos, resamples=resamples, seed=seed)


def paired_difference(
    values: Numbers, baseline: Numbers, videos: Ids, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of `values - baseline`, question by question, and its interval over videos.

    Raises:
        UsageError: as `mean_interval`.
    """
    difference = _checked("values", values, videos) - _checked("baseline", baseline, videos)
    return mean_interval(difference, videos, resamples=resamples, seed=seed)


def kept_share(
    values: Numbers, baseline: Numbers, videos: Ids, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the mean of `values` divided by that of `baseline`, and its interval over videos.

    The interval has no ends where a resample's baseline may be zero.

    Raises:
        UsageError: as `mean_interval`; or the baseline's sum is not positive.
    """
    above, below = _checked("values", values, videos), _checked("baseline", baseline, videos)
    if below.sum() <= 0:
        raise UsageError(
            f"baseline: its mean is {below.mean():g}, expected more than 0; nothing can be kept of"
            " nothing: show the difference"
        )
    return _ratio_interval(above, below, videos, resamples=resamples, seed=seed)


def geometric_mean_ratio(
    values: Numbers, baseline: Numbers, videos: Ids, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Return the geometric mean of `values / baseline`, pair by pair, and its interval over videos.

    For times and sizes, where twice as fast and half as fast must cancel.

    Raises:
        UsageError: as `mean_interval`; or a number is not positive.
    """
    above, below = _checked("values", values, videos), _checked("baseline", baseline, videos)
    for name, numbers in (("values", above), ("baseline", below)):
        if numbers.min() <= 0:
            raise UsageError(
                f"{name}: the least is {numbers.min():g}, expected more than 0; a ratio has no"
                " logarithm there: leave such pairs out"
            )
    logs = mean_interval(np.log(above) - np.log(below), videos, resamples=resamples, seed=seed)
    return Interval(
        value=float(np.exp(logs.value)),
        low=None if logs.low is None else float(np.exp(logs.low)),
        high=None if logs.high is None else float(np.exp(logs.high)),
        num_videos=logs.num_videos,
        num_questions=logs.num_questions,
    )


def judge_margin(interval: Interval, margin: float) -> Verdict:
    """Judge an interval of a difference (higher is better) against a margin above zero.

    * `equivalent`: the whole interval lies inside (-margin, margin);
    * `non-inferior`: it lies above -margin, but reaches margin or beyond;
    * `inferior`: it lies below -margin;
    * `undecided`: it holds -margin, it has no ends, or it is known to be of fewer than
      `MIN_VIDEOS` videos.

    Raises:
        UsageError: the margin is not above zero.
    """
    if not margin > 0:
        raise UsageError(f"margin: {margin:g} is not above 0; give what you would tolerate")
    is_thin = interval.num_videos is not None and interval.num_videos < MIN_VIDEOS
    if interval.low is None or interval.high is None or is_thin:
        return "undecided"
    if interval.low > -margin:
        return "equivalent" if interval.high < margin else "non-inferior"
    return "inferior" if interval.high < -margin else "undecided"


def _ratio_interval(
    above: NDArray[Any], below: NDArray[Any], videos: Ids, *, resamples: int, seed: int
) -> Interval:
    """The interval of sum(above) / sum(below) over resampled videos."""
    if resamples < 1:
        raise UsageError(f"resamples: {resamples} is below 1; leave it at {RESAMPLES}")
    place = _places(videos)
    num_videos = int(place.max()) + 1
    sums = np.stack([np.bincount(place, weights=part) for part in (above, below)])
    low = high = None
    if num_videos > 1:
        drawn = _resampled_sums(sums, resamples=resamples, seed=seed)
        if drawn[1].min() > 0:
            ends = 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)
            low, high = (float(end) for end in np.percentile(drawn[0] / drawn[1], ends))
    return Interval(
        value=float(above.sum() / below.sum()),
        low=low,
        high=high,
        num_videos=num_videos,
        num_questions=len(above),
    )


def _resampled_sums(sums: NDArray[Any], *, resamples: int, seed: int) -> NDArray[Any]:
    """Sum each row of `sums` over as many videos as it has, drawn again: [row, resample]."""
    generator = np.random.default_rng(seed)
    num_videos = sums.shape[1]
    drawn = np.empty((len(sums), resamples))
    rows = max(1, _BLOCK_DRAWS // num_videos)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), num_videos)
        draws = generator.integers(num_videos, size=shape)
        for row, per_video in zip(drawn, sums, strict=True):
            row[start : start + rows] = per_video[draws].sum(axis=1)
    return drawn


def _places(videos: Ids) -> NDArray[Any]:
    """Number the videos in order of first appearance, so that their ids do not matter."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(video, len(numbers)) for video in videos])


def _checked(name: str, values: Numbers, videos: Ids) -> NDArray[Any]:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise UsageError(
            f"{name}: shape {numbers.shape}, expected one number per question; with no question"
            " there is no figure to show"
        )
    if len(numbers) != len(videos):
        raise UsageError(
            f"{name}: {len(numbers)} numbers for {len(videos)} videos; give the video of each"
            " question"
        )
    bad = int((~np.isfinite(numbers)).sum())
    if bad:
        raise UsageError(
            f"{name}: {bad} of {len(numbers)} are not finite; leave these questions out and say how"
            " many they are"
        )
    return numbers
