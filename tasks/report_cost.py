"""The report's costs: first token and prompt against frames, and cost against questions."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from tasks.evaluate_cost import (
    ANSWER,
    BREAK_EVEN,
    FASTER,
    FIRST_TOKEN,
    PART,
    PER_QUESTION,
    PREPARED,
    PROMPT_TOKENS,
)
from tasks.evaluate_figures import Figure
from tasks.html_page import Picture, Section, Table
from tasks.pictures import MARKERS, PALETTE, drawing, svg_of
from tasks.report_figures import Figures, milliseconds, plain_log_axis

_PARTS = {
    "decode_s": "decode",
    "internalize_s": "internalize",
    "load_s": "load adapters",
    "compose_s": "compose",
    "read_video_s": "read into cache",
    FIRST_TOKEN: "first token",
    ANSWER: "whole answer",
}


def first_token_section(figures: Figures) -> Section:
    """Show time to first token and prompt length against the number of frames."""
    found = figures.of(part=PART)
    frames = [n for n in found.of(metric=FIRST_TOKEN).values("num_frames") if n is not None]
    return Section(
        heading="Time to first token, and prompt length",
        paragraphs=(
            "From the prompt's ids to the first new id, warm, with the adapter or the cache "
            "resident; one question at a time. All ways were timed in turns in one process, and "
            "medians are shown. The seconds hold for the machine that measured them; the ratios "
            "travel further. An empty cell: the prompt does not fit the model's positions.",
            *_speedups(found),
        ),
        tables=(_size_table(found, frames), _parts_table(found, frames)),
        pictures=(
            Picture(
                svg=_draw_first_token(found),
                text="Left: median time to first token. Right: tokens of the prompt, those in a "
                "cache included. Both against the number of frames that the answer rests on.",
            ),
        ),
    )


def amortised_section(figures: Figures) -> Section:
    """Show seconds per question against questions per video."""
    found = figures.of(part=PART)
    spread = found.of(metric=PER_QUESTION)
    if not spread.listed:
        text = "Not every way could be timed at one number of frames, so nothing can be spread."
        return Section(heading="Cost per question", paragraphs=(text,))
    even = [
        f"From {f.value:.1f} questions per video on, an adapter costs less than {f.baseline}."
        for f in found.of(metric=BREAK_EVEN).listed
    ]
    return Section(
        heading="Cost per question, against questions per video",
        paragraphs=(
            "What a way does once per video is divided by its questions, and what each question "
            "costs is added. Once: decoding for all; internalizing, loading and composing for an "
            "adapter; reading the video into the cache for a KV cache. In context reads the frames "
            f"anew with each question. Measured at {spread.listed[0].num_frames} frames, one "
            "question at a time.",
            *even,
        ),
        tables=(_amortised_table(spread),),
        pictures=(
            Picture(
                svg=_draw_amortised(spread),
                text="Seconds per question, both axes logarithmic. Further down is cheaper.",
            ),
        ),
    )


def _speedups(found: Figures) -> list[str]:
    return [
        f"Time to first token, {f.baseline} over adapter: {f.value:.2g} (geometric mean over the "
        "numbers of frames)."
        for f in found.of(metric=FASTER, num_frames=None).listed
    ]


def _size_table(found: Figures, frames: Sequence[int]) -> Table:
    ways = found.of(metric=FIRST_TOKEN).conditions()
    rows = []
    for count in frames:
        here = found.of(num_frames=count)
        cells = [milliseconds(here.one(condition=way, metric=FIRST_TOKEN)) for way in ways]
        prompts = [here.one(condition=way, metric=PROMPT_TOKENS) for way in ways]
        cells += ["-" if f is None else f"{f.value:.0f}" for f in prompts]
        rows.append([str(count), *cells])
    header = ["frames", *(f"{w}, ms" for w in ways), *(f"{w}, prompt tokens" for w in ways)]
    return Table(header=header, rows=rows, caption="time to first token, and prompt length")


def _parts_table(found: Figures, frames: Sequence[int]) -> Table:
    rows = [
        [
            way,
            str(count),
            *(
                milliseconds(found.one(condition=way, num_frames=count, metric=part))
                for part in _PARTS
            ),
        ]
        for way in PREPARED
        for count in frames
        if found.one(condition=way, num_frames=count, metric=FIRST_TOKEN)
    ]
    header = ["way", "frames", *(f"{name}, ms" for name in _PARTS.values())]
    return Table(header=header, rows=rows, caption="every part of the time, medians")


def _amortised_table(spread: Figures) -> Table:
    ways = spread.conditions()
    counts = sorted({f.detail["questions_per_video"] for f in spread.listed})
    rows = []
    for count in counts:
        here = Figures([f for f in spread.listed if f.detail["questions_per_video"] == count])
        rows.append([str(count), *(milliseconds(here.one(condition=way)) for way in ways)])
    return Table(
        header=["questions per video", *(f"{way}, ms per question" for way in ways)], rows=rows
    )


def _draw_first_token(found: Figures) -> str:
    with drawing(width_in=7.4, height_in=3.4, num_axes=2) as (figure, (left, right)):
        first = found.of(metric=FIRST_TOKEN)
        for place, way in enumerate(first.conditions()):
            _line(left, place, first.of(condition=way).listed, way, scale=1000.0)
            _line(right, place, found.of(metric=PROMPT_TOKENS, condition=way).listed, None)
        for axes, label in ((left, "time to first token, ms"), (right, "prompt tokens")):
            _log_axes(axes, sorted(first.values("num_frames")), "frames", label)
        figure.legend(loc="outside upper center", ncols=3)
    return svg_of(figure)


def _draw_amortised(spread: Figures) -> str:
    with drawing(width_in=7.4, height_in=3.6) as (figure, (axes,)):
        for place, way in enumerate(spread.conditions()):
            listed = spread.of(condition=way).listed
            axes.plot(
                [f.detail["questions_per_video"] for f in listed],
                [f.value for f in listed],
                marker=MARKERS[place],
                color=PALETTE[place],
                label=way,
            )
        counts = sorted({f.detail["questions_per_video"] for f in spread.listed})
        _log_axes(axes, counts, "questions per video", "seconds per question")
        figure.legend(loc="outside upper center", ncols=3)
    return svg_of(figure)


def _line(
    axes: Axes, place: int, figures: Sequence[Figure], label: str | None, *, scale: float = 1.0
) -> None:
    listed = sorted(figures, key=lambda f: f.num_frames or 0)
    axes.plot(
        [f.num_frames or 0 for f in listed],
        [scale * f.value for f in listed],
        # A cache's prompt is as long as the one in context: a hollow marker shows both.
        marker=MARKERS[place],
        markerfacecolor="none" if place else None,
        markersize=6 + 2 * place,
        color=PALETTE[place],
        label=label,
    )


def _log_axes(axes: Axes, ticks: Sequence[int], x_label: str, y_label: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x_label, ylabel=y_label)
    plain_log_axis(axes.yaxis)
    axes.minorticks_off()
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    if len(ticks) > 6:
        axes.tick_params(axis="x", labelrotation=45)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.1, high * 1.1)
