"""The pictures of docs/benchmarks.md, each from one benchmark's JSON.

Every picture has a white ground of its own, so that it reads the same on a light page and on a
dark one, and names its parts where they are as well as in a legend.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes

from benchmarks.corpus_size import marginal_costs
from tasks.pictures import MARKERS, PALETTE, drawing, svg_of

Measured = Mapping[str, Any]
Stages = Mapping[str, Mapping[str, Sequence[float]]]
# What is not part of the way from a file to a stored adapter.
NOT_OF_A_SEGMENT: Final = ("load", "compose 8", "answer")
LEAST_SHARE: Final = 0.01  # a narrower bar is a line that nobody sees
LABELLED_SHARE: Final = 0.08  # of the longer bar, for a name to fit
REST = "everything else"
_LIGHT: Final = ("#E69F00", "#56B4E9")  # colours on which dark text is read


def shown_stages(stages: Stages) -> dict[str, dict[str, float]]:
    """Return both ways' median seconds of the largest stages, in order, and of the rest."""
    medians = {
        name: {way: statistics.median(times) for way, times in ways.items() if times}
        for name, ways in stages.items()
        if name not in NOT_OF_A_SEGMENT
    }
    total = max(sum(ways.get(way, 0.0) for ways in medians.values()) for way in ("naive", "ours"))
    visible = [name for name in medians if max(medians[name].values()) > LEAST_SHARE * total]
    largest = sorted(visible, key=lambda name: -max(medians[name].values()))[: len(PALETTE) - 1]
    shown = {name: ways for name, ways in medians.items() if name in largest}
    rest = [ways for name, ways in medians.items() if name not in largest]
    if rest:
        shown[REST] = {way: sum(w.get(way, 0.0) for w in rest) for way in ("naive", "ours")}
    return shown


def draw_stages(measured: Measured) -> str:
    """Draw where one segment's time goes, before and after, as two stacked bars."""
    shown = shown_stages(measured["stages"])
    totals = {way: sum(w.get(way, 0.0) for w in shown.values()) for way in ("naive", "ours")}
    unit, factor = ("s", 1.0) if max(totals.values()) >= 1.0 else ("ms", 1e3)
    with drawing(height_in=2.6) as (figure, (axes,)):
        for place, way in enumerate(("ours", "naive")):
            left = 0.0
            for colour, (name, ways) in zip(PALETTE, shown.items(), strict=False):
                width = factor * ways.get(way, 0.0)
                label = name if place else None
                axes.barh(place, width, left=left, color=colour, height=0.66, label=label)
                if ways.get(way, 0.0) > LABELLED_SHARE * totals["naive"]:
                    ink = "black" if colour in _LIGHT else "white"
                    text = f"{name.replace(' ', chr(10))}\n{width:.1f}"
                    middle = left + width / 2
                    axes.text(middle, place, text, color=ink, ha="center", va="center", fontsize=7)
                left += width
            axes.text(left, place, f"  {left:.1f} {unit}", va="center", fontweight="bold")
        axes.set_yticks([0, 1], ["after\n(ours)", "before\n(plain form)"])
        axes.set_xlim(0, 1.13 * factor * max(totals.values()))
        seconds = "CPU seconds" if factor == 1.0 else "CPU milliseconds"
        axes.set_xlabel(f"{seconds} for one segment of {measured['model']}, one core")
        axes.grid(visible=False, axis="y")
        figure.legend(ncols=4, loc="outside lower center", fontsize=8)
        return svg_of(figure)


def draw_corpus_size(measured: Measured) -> str:
    """Draw the cost of one more video between two sizes, every round a point."""
    rounds = [{int(size): found for size, found in each.items()} for each in measured["rounds"]]
    costs = [marginal_costs(each) for each in rounds]
    sizes = sorted(costs[0])
    labels = [
        f"{small:,} to {large:,}" for small, large in zip(sorted(rounds[0]), sizes, strict=False)
    ]
    with drawing(height_in=2.6) as (figure, (axes,)):
        for place, size in enumerate(sizes):
            found = [1e3 * each[size] for each in costs]
            axes.scatter([place] * len(found), found, color=PALETTE[0], alpha=0.6, zorder=3)
            middle = statistics.median(found)
            axes.plot([place - 0.2, place + 0.2], [middle, middle], color=PALETTE[1], linewidth=2)
            axes.text(place + 0.23, middle, f"{middle:.3g} ms", va="center")
        axes.set_xticks(range(len(sizes)), labels)
        axes.set_xlim(-0.6, len(sizes) - 0.3)
        axes.set_ylim(0, 1.25e3 * max(max(each.values()) for each in costs))
        axes.set_xlabel("videos in the corpus")
        axes.set_ylabel("CPU ms per video")
        return svg_of(figure)


def draw_first_token(measured: Measured) -> str:
    """Draw the time to the first token against the frames of the video, one line a way."""
    with drawing(height_in=3.2) as (figure, (axes,)):
        by_way: dict[str, dict[int, float]] = {}
        for row in measured["first_token"]:
            by_way.setdefault(row["way"], {})[row["num_frames"]] = statistics.median(row["seconds"])
        for (way, found), colour, marker in zip(by_way.items(), PALETTE, MARKERS, strict=False):
            frames = sorted(found)
            axes.plot(frames, [found[n] for n in frames], color=colour, marker=marker, label=way)
        _log_axes(axes, sorted({n for found in by_way.values() for n in found}))
        axes.set_xlabel("frames of the video")
        axes.set_ylabel("CPU seconds to the first token")
        figure.legend(ncols=3, loc="outside lower center", fontsize=8)
        return svg_of(figure)


def _log_axes(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()


def draw_workers(measured: Measured) -> str:
    """Draw every round's gain of two workers, beside what two that share nothing reach."""
    names = {"two": "two workers, one lake", "apart": "two that share nothing"}
    with drawing(height_in=1.9) as (figure, (axes,)):
        for place, (way, name) in enumerate(reversed(names.items())):
            found = measured["gains"][way]
            colour = PALETTE[place]
            axes.scatter(found, [place] * len(found), color=colour, alpha=0.7, zorder=3, label=name)
            axes.text(statistics.median(found), place + 0.22, f"{statistics.median(found):.2f}x")
        axes.axvline(1.7, color="#666666", linestyle="--", linewidth=1)
        axes.set_yticks([0, 1], list(reversed(names.values())))
        every = [ratio for way in names for ratio in measured["gains"][way]]
        axes.set_xlim(min(0.9, min(every) - 0.1), max(2.1, max(every) + 0.1))
        axes.set_ylim(-0.5, 1.6)
        axes.set_xlabel("times as fast as one worker (dashed: the bar)")
        return svg_of(figure)


# File name, what a reader without pictures is told, the key that must be there, and who draws.
PICTURES: Final[Mapping[str, tuple[str, str, Callable[[Measured], str]]]] = {
    "stages": ("Where one segment's time goes, before and after", "stages", draw_stages),
    "corpus_size": ("CPU time per video, by the size of the corpus", "rounds", draw_corpus_size),
    "first_token": ("Time to the first token by frames", "first_token", draw_first_token),
    "workers": ("Two workers over one, round by round", "gains", draw_workers),
}
