"""The report's accuracy: every mode per question type, and adapter minus in context."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from tasks.evaluate_comparison import PAIR, PART
from tasks.evaluate_figures import Figure
from tasks.html_page import Picture, Section, Table
from tasks.pictures import MARKERS, PALETTE, drawing, svg_of
from tasks.report_figures import (
    METRIC_NAMES,
    Figures,
    error_bars,
    number,
    type_name,
    with_interval,
)

_ROW_IN = 0.24
_INTERVALS = (
    "In brackets: 95% intervals from resampling whole videos, because questions about one video "
    "are right or wrong together. One video gives no interval."
)


def accuracy_section(figures: Figures) -> Section:
    """Show how right each mode is, per question type."""
    compared = figures.of(part=PART, baseline=None)
    metrics = [name for name in METRIC_NAMES if compared.one(metric=name)]
    if not metrics:
        text = "No question of this set has a reference answer, so nothing can be called right."
        return Section(heading="How right the answers are", paragraphs=(text,))
    return Section(
        heading="How right the answers are",
        paragraphs=(
            "Token-F1 is the overlap of words with the best reference, from 0 to 1, without case, "
            "punctuation and articles; the raw form keeps them; exact match asks for the same "
            f"words. {_INTERVALS}",
        ),
        tables=(_accuracy_table(compared, metrics[0]),),
        pictures=(
            Picture(
                svg=_draw_accuracy(compared.of(metric=metrics[0])),
                text=f"{METRIC_NAMES[metrics[0]]} of every mode per question type, with 95% "
                "intervals. Further right is better.",
            ),
        ),
    )


def difference_section(figures: Figures) -> Section:
    """Show adapter minus in context, question by question, and what follows from it."""
    heading = "Are adapters as good as the video in context?"
    found = figures.of(part=PART, condition=PAIR[0], baseline=PAIR[1])
    if not found.listed:
        text = (
            "This cannot be said here: it takes the modes adapter and in-context, and questions "
            "with references."
        )
        return Section(heading=heading, paragraphs=(text,))
    judged = [f.metric for f in found.listed if f.margin is not None]
    return Section(
        heading=heading,
        paragraphs=(
            "The difference adapter minus in context is taken question by question. Equivalent: "
            "the whole 95% interval lies within the margin on both sides. Non-inferior: it lies "
            "above minus the margin. Inferior: it lies below minus the margin. Undecided: none of these, "
            "or fewer than 10 videos. The verdicts are computed from the intervals.",
        ),
        tables=[_difference_table(found.of(metric=m)) for m in dict.fromkeys(judged)],
        pictures=_difference_pictures([f for f in found.listed if f.margin is not None]),
    )


def other_metrics_section(figures: Figures) -> Section:
    """Show the same comparison by every other metric."""
    compared = figures.of(part=PART, baseline=None)
    different = figures.of(part=PART, condition=PAIR[0], baseline=PAIR[1])
    metrics = [name for name in METRIC_NAMES if compared.one(metric=name)]
    tables = [_accuracy_table(compared, metric) for metric in metrics[1:]]
    tables += [
        _difference_table(different.of(metric=metric))
        for metric in metrics
        if any(f.margin is None for f in different.of(metric=metric).listed)
    ]
    text = "No margin is stated for a metric without a verdict."
    return Section(heading="The same by other metrics", paragraphs=(text,), tables=tables)


def verdict_lines(figures: Figures) -> list[str]:
    """Say in one sentence per judged metric what came out over all types."""
    return [
        f"{METRIC_NAMES.get(f.metric, f.metric)}, adapter minus in context: {with_interval(f)}, "
        f"margin {f.margin:g}: {f.verdict}."
        for f in figures.of(part=PART, question_type=None, baseline=PAIR[1]).listed
        if f.margin is not None
    ]


def _accuracy_table(compared: Figures, metric: str) -> Table:
    found = compared.of(metric=metric)
    conditions = found.conditions()
    rows = []
    for kind in _types(found):
        of_type = found.of(question_type=kind)
        shown = [with_interval(of_type.one(condition=name)) for name in conditions]
        counts = of_type.listed[0]
        rows.append([type_name(kind), str(counts.num_questions), str(counts.num_videos), *shown])
    header = ["question type", "questions", "videos", *conditions]
    return Table(header=header, rows=rows, caption=METRIC_NAMES[metric])


def _difference_table(found: Figures) -> Table:
    figures = found.listed
    rows = [
        [
            type_name(f.question_type),
            str(f.num_questions),
            str(f.num_videos),
            with_interval(f),
            "-" if f.margin is None else f"{f.margin:g}",
            f.verdict or "-",
        ]
        for f in figures
    ]
    header = ["question type", "questions", "videos", "adapter - in-context", "margin", "verdict"]
    return Table(header=header, rows=rows, caption=METRIC_NAMES[figures[0].metric])


def _types(found: Figures) -> list[str | None]:
    types: list[str | None] = found.values("question_type")
    return types


def _draw_accuracy(found: Figures) -> str:
    types, conditions = _types(found), found.conditions()
    height_in = 1.1 + _ROW_IN * 0.55 * len(types) * (len(conditions) + 1)
    with drawing(width_in=7.4, height_in=height_in) as (figure, (axes,)):
        for place, name in enumerate(conditions):
            shift = (place - (len(conditions) - 1) / 2) / (len(conditions) + 1)
            _points(axes, types, found.of(condition=name), place, shift, name)
        _label_rows(axes, [type_name(kind) for kind in types])
        axes.set_xlim(-0.03, 1.03)
        axes.set_xlabel(METRIC_NAMES[found.listed[0].metric])
        figure.legend(loc="outside upper center", ncols=3)
    return svg_of(figure)


def _points(
    axes: Axes,
    types: Sequence[str | None],
    found: Figures,
    place: int,
    shift: float,
    label: str,
) -> None:
    shown = [(row, f) for row, kind in enumerate(types) if (f := found.one(question_type=kind))]
    axes.errorbar(
        [f.value for _, f in shown],
        [row + shift for row, _ in shown],
        xerr=error_bars(f for _, f in shown),
        fmt=MARKERS[place % len(MARKERS)],
        color=PALETTE[place % len(PALETTE)],
        markersize=5,
        capsize=2,
        linewidth=1,
        label=label,
    )


def _difference_pictures(judged: Sequence[Figure]) -> list[Picture]:
    pictures = []
    for metric in dict.fromkeys(f.metric for f in judged):
        of_metric = [f for f in judged if f.metric == metric]
        pictures.append(
            Picture(
                svg=_draw_differences(of_metric),
                text=f"{METRIC_NAMES.get(metric, metric)}: adapter minus in context with 95% "
                f"intervals; the shaded band is the margin of {number(of_metric[0].margin or 0)}.",
            )
        )
    return pictures


def _draw_differences(figures: Sequence[Figure]) -> str:
    margin = figures[0].margin or 0.0
    ends = [abs(v) for f in figures for v in (f.value, f.low, f.high) if v is not None]
    reach = 1.15 * max([margin * 1.6, *ends])
    with drawing(width_in=7.4, height_in=0.9 + _ROW_IN * 1.2 * len(figures)) as (figure, (axes,)):
        axes.axvspan(-margin, margin, color="#dfe8f0", zorder=0)
        for edge in (-margin, margin):
            axes.axvline(edge, color="#666666", linestyle="--", linewidth=1)
        axes.axvline(0, color="#222222", linewidth=1)
        axes.errorbar(
            [f.value for f in figures],
            range(len(figures)),
            xerr=error_bars(figures),
            fmt="o",
            color=PALETTE[0],
            capsize=3,
        )
        _label_rows(axes, [f"{type_name(f.question_type)}: {f.verdict}" for f in figures])
        axes.set_xlim(-reach, reach)
        axes.set_xlabel(f"{METRIC_NAMES[figures[0].metric]}, adapter minus in context")
    return svg_of(figure)


def _label_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
