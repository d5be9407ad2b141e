"""Figures against their bars: what was found, what is asked for, and whether it is met."""

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One figure and its bar."""

    what: str
    """What was measured."""
    found: float
    """The figure: a median where there were several."""
    bar: float
    """What is asked for."""
    is_upper: bool
    """Whether the bar is the most that is allowed; else the least."""
    detail: str = ""
    """Least and largest, counts."""

    @property
    def is_met(self) -> bool:
        """Say whether the bar holds."""
        return self.found <= self.bar if self.is_upper else self.found >= self.bar


def at_least(what: str, found: float, bar: float, *, detail: str = "") -> Verdict:
    """Judge a figure that must not be lower."""
    return Verdict(what=what, found=found, bar=bar, is_upper=False, detail=detail)


def at_most(what: str, found: float, bar: float, *, detail: str = "") -> Verdict:
    """Judge a figure that must not be higher."""
    return Verdict(what=what, found=found, bar=bar, is_upper=True, detail=detail)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """Lay verdicts out, one per row."""
    made = Table(title="Against the bars")
    made.add_column("what")
    for heading in ("found", "bar"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("met")
    made.add_column("detail")
    for verdict in verdicts:
        sign = "<=" if verdict.is_upper else ">="
        made.add_row(
            verdict.what,
            f"{verdict.found:.3g}",
            f"{sign} {verdict.bar:.3g}",
            "yes" if verdict.is_met else "NO",
            verdict.detail,
        )
    return made


def verdict_rows(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as JSON types."""
    return [asdict(verdict) | {"is_met": verdict.is_met} for verdict in verdicts]


def make_parser(description: str, *, num_pairs: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark of speed has."""

    def positive(text: str) -> int:
        if int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text} (expected at least 1)")
        return int(text)

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--pairs",
        type=positive,
        default=num_pairs,
        help=f"timings of each way (default: {num_pairs})",
    )
    parser.add_argument("--quick", action="store_true", help="small shapes: does it run at all")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    return parser


def finish(
    measured: Mapping[str, Any], verdicts: Sequence[Verdict], *, out: Path | None, quick: bool
) -> None:
    """Print the verdicts and the load, and write the JSON; small shapes are judged by nobody."""
    console = Console(width=150)
    if verdicts and not quick:
        console.print(verdict_table(verdicts))
    load = measured["load_average"][0]
    console.print(
        f"torch {measured['torch']}, {measured['device']}, {measured['num_cores']} cores, "
        f"{measured['num_threads']} threads, load average {load:.1f} at the start"
        + ("; small shapes (--quick): no figure of these counts" if quick else ""),
        highlight=False,
    )
    if out:
        whole = dict(measured) | {
            "is_quick": quick,
            "verdicts": verdict_rows(verdicts),
            "load_average_at_end": list(os.getloadavg()),
            "cpu_s": time.process_time(),
        }
        out.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
