"""Pictures for reports and documents: one palette, one size, SVG that a page can hold.

The colours are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which people with any
common colour vision can tell apart; lines differ in marker too, so that a grey print can be read.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
HEAT_MAP: Final = "cividis"  # even steps in lightness: it survives a grey printer
_STYLE: Final[dict[Any, Any]] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: sharp, searchable, small
    "svg.hashsalt": "video2lora",  # the same picture gives the same bytes
}


@contextmanager
def drawing(
    *, width_in: float = 7.0, height_in: float = 3.6, num_axes: int = 1
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure and its axes, side by side, in the house's style.

    Not pyplot's: nothing global is kept, and any thread may draw.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, [figure.add_subplot(1, num_axes, k + 1) for k in range(num_axes)]


def svg_of(figure: Figure) -> str:
    """Return a figure as an SVG element without XML prologue, for use inside HTML."""
    out = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
