"""Ways that do not say the same, or not for the same money: timed in turns, compared by ratios.

`_pairs.py` compares two forms of one function; this compares any number of ways to answer. Seconds
are CPU seconds of this process, and a ratio is taken within one turn, because a busy machine slows
all ways.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

Way = Callable[[], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One measured ratio: `slow` over `fast`, turn by turn."""

    room: str
    subject: str
    slow: str
    fast: str
    ratios: tuple[float, ...]
    fast_s: float
    """Median CPU seconds of `fast`, per question or call."""

    def row(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "room": self.room,
            "subject": self.subject,
            "slow": self.slow,
            "fast": self.fast,
            "median_ratio": statistics.median(self.ratios),
            "ratios": list(self.ratios),
            "fast_s": self.fast_s,
        }


def in_turns(ways: Mapping[str, tuple[Way, int]], *, num_pairs: int) -> dict[str, list[float]]:
    """Time each way once a turn, first places in turns; seconds per unit of its work."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways.items())
    for _ in range(num_pairs):
        for name, (run, num_units) in order:
            start_s = time.process_time()
            run()
            seconds[name].append((time.process_time() - start_s) / num_units)
        order.reverse()
    return seconds


def lines(
    room: str,
    subject: str,
    ways: Mapping[str, tuple[Way, int]],
    pairs_of: Sequence[tuple[str, str]],
    *,
    num_pairs: int,
) -> list[Line]:
    """Time the ways in turns and compare those that are named (slow, fast)."""
    return compared(room, subject, in_turns(ways, num_pairs=num_pairs), pairs_of)


def compared(
    room: str,
    subject: str,
    found: Mapping[str, Sequence[float]],
    pairs_of: Sequence[tuple[str, str]],
) -> list[Line]:
    """Compare what was timed in turns, pair by pair (slow, fast)."""
    return [
        Line(
            room=room,
            subject=subject,
            slow=slow,
            fast=fast,
            ratios=tuple(s / f for s, f in zip(found[slow], found[fast], strict=True)),
            fast_s=statistics.median(found[fast]),
        )
        for slow, fast in pairs_of
    ]


def turns_table(made: Sequence[Line]) -> Table:
    """Lay the lines out."""
    table = Table(title="CPU time of the first over the second: median, least and largest turn")
    for heading in ("room", "what", "first", "second", "ratio", "min - max"):
        table.add_column(heading)
    for line in made:
        table.add_row(
            line.room,
            line.subject,
            line.slow,
            line.fast,
            f"{statistics.median(line.ratios):.2f}",
            f"{min(line.ratios):.2f} - {max(line.ratios):.2f}",
        )
    return table
