"""How a report's figures are found and written out as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from tasks.evaluate_figures import Figure

ALL_TYPES = "all types"
METRIC_NAMES = {
    "token_f1": "token-F1",
    "raw_token_f1": "raw token-F1",
    "exact_match": "exact match",
    "judge": "judge",
}
MODE_ORDER = (
    "adapter",
    "in-context",
    "in-context-kv-cache",
    "blind",
    "another video's adapter",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one part of an evaluation, or of all."""

    listed: Sequence[Figure]

    def of(self, **columns: Any) -> "Figures":
        """Return those whose columns have these values."""
        return Figures(
            [f for f in self.listed if all(getattr(f, k) == v for k, v in columns.items())]
        )

    def one(self, **columns: Any) -> Figure | None:
        """Return the figure with these columns; None where it was not measured."""
        found = self.of(**columns).listed
        return found[0] if found else None

    def values(self, column: str) -> list[Any]:
        """List the different values of a column, in the order of their first figure."""
        return list(dict.fromkeys(getattr(f, column) for f in self.listed))

    def conditions(self) -> list[str]:
        """List the conditions, modes first and in their usual order."""
        found = self.values("condition")
        known = [name for name in MODE_ORDER if name in found]
        return known + [name for name in found if name not in known]


def type_name(kind: str | None) -> str:
    """Return what a question type is called in a table."""
    return ALL_TYPES if kind is None else kind


def number(value: float) -> str:
    """Write a share or a difference of shares."""
    return f"{value:.3f}"


def with_interval(figure: Figure | None) -> str:
    """Write a figure and its 95% interval; a dash where it was not measured."""
    if figure is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{number(figure.value)} (no interval)"
    # A no-break space: where the cell is narrow the interval stays whole, on a line of its own.
    return f"{number(figure.value)} [{number(figure.low)},\u00a0{number(figure.high)}]"


def milliseconds(figure: Figure | None) -> str:
    """Write a time measured in seconds."""
    if figure is None:
        return "-"
    value = 1000 * figure.value
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def plain_log_axis(axis: Axis) -> None:
    """Give a logarithmic axis ticks that read 2, 5, 10 and not powers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def error_bars(figures: Iterable[Figure]) -> list[list[float]]:
    """Return how far intervals reach below and above their figures; 0 where there is none."""
    listed = list(figures)
    return [
        [max(0.0, f.value - (f.value if f.low is None else f.low)) for f in listed],
        [max(0.0, (f.value if f.high is None else f.high) - f.value) for f in listed],
    ]
