"""The report's variations: segments composed, ranks kept, frames x resolution."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from tasks.evaluate_figures import Figure
from tasks.evaluate_sweeps import ALL_RANKS, SHOWN_METRIC
from tasks.html_page import Picture, Section, Table
from tasks.pictures import HEAT_MAP, MARKERS, PALETTE, drawing, svg_of
from tasks.report_figures import METRIC_NAMES, Figures, error_bars, with_interval

_NAME = METRIC_NAMES[SHOWN_METRIC]


def composition_section(figures: Figures) -> Section:
    """Show accuracy against the number of segments that are composed."""
    found = figures.of(part="composition", metric=SHOWN_METRIC)
    heading = "Answers over more segments"
    if not found.listed:
        text = "No video has one of the numbers of segments asked for, or no type is asked of all."
        return Section(heading=heading, paragraphs=(text,))
    counts = sorted(found.values("num_segments"))
    return Section(
        heading=heading,
        paragraphs=(
            "A video's adapters are summed: all of them; all of them, and the sum reduced by SVD; "
            "or the few that the question is about (route-compose, what the product does). Only "
            "types that videos of every length are asked are counted.",
        ),
        tables=(_table(found, "num_segments", counts, "segments"),),
        pictures=(
            Picture(
                svg=_draw_lines(found, "num_segments", counts, "segments composed"),
                text=f"{_NAME} against the number of segments, with 95% intervals.",
            ),
        ),
    )


def ranks_section(figures: Figures) -> Section:
    """Show accuracy with some slices of the rank only."""
    found = figures.of(part="ranks", metric=SHOWN_METRIC)
    every = found.one(condition=ALL_RANKS)
    varied = Figures([f for f in found.listed if f.condition != ALL_RANKS])
    heading = "Which ranks carry the answer"
    if not varied.listed or every is None:
        text = "The adapters have too few ranks for the numbers asked for."
        return Section(heading=heading, paragraphs=(text,))
    counts = sorted(varied.values("rank"))
    return Section(
        heading=heading,
        paragraphs=(
            f"Each segment's adapter has {every.rank} ranks; a slice is one of them, its size "
            "|A_r| |B_r|, layer by layer. top-k, bottom-k and random-k keep k slices, remove-top-k "
            "keeps all but the k largest. The bias stays. All ranks: "
            f"{with_interval(every)} ({every.num_questions} questions, {every.num_videos} videos).",
        ),
        tables=(_table(varied, "rank", counts, "k"),),
        pictures=(
            Picture(
                svg=_draw_lines(varied, "rank", counts, "k, slices of each layer", level=every),
                text=f"{_NAME} with some slices only, with 95% intervals; dotted: all ranks.",
            ),
        ),
    )


def sweep_section(figures: Figures) -> Section:
    """Show accuracy over frames and resolution, as heat maps."""
    found = figures.of(part="sweep", metric=SHOWN_METRIC)
    heading = "Frames and resolution"
    if not found.listed:
        text = "No cell could be measured: no video of the questions could be decoded."
        return Section(heading=heading, paragraphs=(text,))
    first = found.listed[0]
    return Section(
        heading=heading,
        paragraphs=(
            "Every cell is a recipe of its own: the same videos decoded with so many frames per "
            "segment, their longest edge first brought to so many pixels, internalized and asked "
            f"anew ({first.num_questions} questions, {first.num_videos} videos per cell). n/a: not "
            "measured, the prompt is too long for the model's positions.",
        ),
        tables=(_sweep_table(found),),
        pictures=(
            Picture(
                svg=_draw_sweep(found),
                text=f"{_NAME} per cell; both maps share one scale. Lighter is better.",
            ),
        ),
    )


def _table(found: Figures, column: str, counts: Sequence[int], name: str) -> Table:
    conditions = found.conditions()
    rows = []
    for count in counts:
        here = found.of(**{column: count})
        shown = [with_interval(here.one(condition=c)) for c in conditions]
        first = here.listed[0]
        rows.append([str(count), str(first.num_questions), str(first.num_videos), *shown])
    return Table(header=[name, "questions", "videos", *conditions], rows=rows, caption=_NAME)


def _sweep_table(found: Figures) -> Table:
    conditions = found.conditions()
    cells = sorted({(f.num_frames or 0, f.size_px or 0) for f in found.listed})
    rows = []
    for num_frames, size_px in cells:
        here = found.of(num_frames=num_frames, size_px=size_px)
        shown = [with_interval(here.one(condition=name)) for name in conditions]
        rows.append([str(num_frames), str(size_px), *shown])
    header = ["frames per segment", "longest edge, px", *conditions]
    return Table(header=header, rows=rows, caption=_NAME)


def _draw_lines(
    found: Figures,
    column: str,
    counts: Sequence[int],
    x_label: str,
    *,
    level: Figure | None = None,
) -> str:
    conditions = found.conditions()
    with drawing(width_in=7.4, height_in=3.7) as (figure, (axes,)):
        if level is not None:
            axes.axhline(level.value, color="#444444", linestyle=":", label=ALL_RANKS)
        for place, name in enumerate(conditions):
            listed = sorted(found.of(condition=name).listed, key=lambda f: getattr(f, column))
            shift = 0.07 * (place - (len(conditions) - 1) / 2)
            axes.errorbar(
                [counts.index(getattr(f, column)) + shift for f in listed],
                [f.value for f in listed],
                yerr=error_bars(listed),
                marker=MARKERS[place % len(MARKERS)],
                color=PALETTE[place % len(PALETTE)],
                capsize=2,
                linewidth=1.3,
                label=name,
            )
        axes.set_xticks(range(len(counts)), [str(count) for count in counts])
        axes.set(xlabel=x_label, ylabel=_NAME, ylim=(-0.03, 1.05))
        axes.set_xlim(-0.4, len(counts) - 0.6)
        figure.legend(loc="outside upper center", ncols=3)
    return svg_of(figure)


def _draw_sweep(found: Figures) -> str:
    frames, edges = sorted(found.values("num_frames")), sorted(found.values("size_px"))
    conditions = found.conditions()
    lowest = min(f.value for f in found.listed)
    height_in = 1.3 + 0.42 * len(edges)
    with drawing(width_in=7.4, height_in=height_in, num_axes=len(conditions)) as (figure, every):
        for axes, name in zip(every, conditions, strict=True):
            image = _draw_map(axes, found.of(condition=name), frames, edges, lowest)
            axes.set_title(name)
            axes.set_xlabel("frames per segment")
        every[0].set_ylabel("longest edge, px")
        figure.colorbar(image, ax=every, shrink=0.85, label=_NAME)
    return svg_of(figure)


def _draw_map(
    axes: Axes, found: Figures, frames: Sequence[int], edges: Sequence[int], lowest: float
) -> AxesImage:
    cells = [[found.one(num_frames=n, size_px=px) for n in frames] for px in edges]
    values = np.array([[np.nan if f is None else f.value for f in row] for row in cells])
    low = min(lowest, 0.99)
    image = axes.imshow(values, cmap=HEAT_MAP, vmin=low, vmax=1.0, aspect="auto", origin="lower")
    for y, row in enumerate(cells):
        for x, f in enumerate(row):
            is_dark = f is not None and (f.value - low) / (1.0 - low) < 0.55
            axes.text(
                x,
                y,
                "n/a" if f is None else f"{f.value:.2f}",
                ha="center",
                va="center",
                fontsize=9 if len(frames) < 7 else 7,
                color="white" if is_dark else "black",
            )
    axes.set_xticks(range(len(frames)), [str(n) for n in frames])
    axes.set_yticks(range(len(edges)), [str(px) for px in edges])
    axes.grid(visible=False)
    return image
