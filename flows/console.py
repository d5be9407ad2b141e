"""What the command line prints: tables, summaries, progress.

A terminal gets colour and a bar; a pipe gets plain lines, wide tables and no control characters.
"""

import csv
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from flows.clock import show_time

if TYPE_CHECKING:  # kept out of the start-up of commands that do not need them
    from pathlib import Path

    import pyarrow as pa

    from storage.schemas import Row
    from tasks.import_checkpoint import Imported
    from tasks.pick_adapters import Picked
    from tasks.progress import Event
    from tasks.summary import RunSummary
    from tasks.verify_export import Verified
    from video2lora_core.routing import RoutedAnswer

_PIPE_WIDTH = 240
_MAX_CELL = 48


def make_console(*, is_error: bool = False) -> Console:
    """Return a console for stdout or stderr that does not fold lines in a pipe."""
    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


class ProgressLine:
    """Counts what the steps report, and says it in one line.

    Rate and time left count from the moment that the work was planned; the time left assumes that
    the videos to come are like those that are through.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing done."""
        self.counts: Counter[Event] = Counter()
        self._now = now
        self._started_s = now()

    def count(self, event: "Event", number: int) -> None:
        """Take a step's report."""
        if event == "videos_planned":
            self._started_s = self._now()
        self.counts[event] += number

    def text(self) -> str:
        """Return the counts, the rate and the time left as people read them."""
        counts = self.counts
        parts = [f"{counts['segments']} segments"]
        if counts["rejects"]:
            parts.append(f"{counts['rejects']} rejects")
        elapsed_s = self._now() - self._started_s
        if counts["segments"] and elapsed_s > 0:
            parts.append(f"{counts['segments'] / elapsed_s:.2g} segments/s")
        num_left = counts["videos_planned"] - counts["videos"]
        if counts["videos"] and num_left > 0:
            left_s = elapsed_s / counts["videos"] * num_left
            parts.append(f"{_duration(left_s)} left")
        return ", ".join(parts)

    def done_text(self) -> str:
        """Return how far it is, for somebody who stops it."""
        counts = self.counts
        if not counts["videos_planned"]:
            return "nothing was begun"
        done, total = counts["videos"], counts["videos_planned"]
        return f"{done} of {total} videos, {counts['segments']} segments internalized"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def showing_progress() -> Iterator[None]:
    """Show the progress of the steps that run inside the `with` block, on stderr.

    Ctrl-C says how far they were.
    """
    from flows.progress_shown import progress_shown

    console, line = make_console(is_error=True), ProgressLine()
    try:
        with progress_shown(console, line):
            yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(line.done_text()) from None


def show_run(summary: "RunSummary", *, lake: str, as_json: bool) -> None:
    """Print what a run did."""
    if as_json:
        sys.stdout.write(json.dumps({"lake": lake, **dataclasses.asdict(summary)}) + "\n")
        return
    console = make_console()
    plan, shards = summary.plan, summary.shards
    console.print(
        f"{plan.num_sources} videos listed, {plan.num_done} of them done before; "
        f"{shards.num_segments} segments internalized, {shards.num_compositions} compositions, "
        f"{shards.num_rejects} rejects"
    )
    if shards.num_rejects:
        console.print(
            f"  see why: video2lora sql 'select uri, reason, detail from open_rejects' "
            f"--lake {lake}"
        )
    spent = {"plan": plan.seconds, **shards.seconds, "publish": summary.published.seconds}
    console.print("seconds: " + ", ".join(f"{kind} {s:.1f}" for kind, s in spent.items()))
    if summary.published.catalog:
        console.print(f"catalog: {summary.published.catalog}")


def show_answer(
    found: "RoutedAnswer", picked: "Picked", *, is_verbose: bool, as_json: bool
) -> None:
    """Print an answer, and where asked which segments it came from."""
    answer = found.answer
    rows = [picked.rows[place] for place in found.chosen]
    spans = [(row["start_us"] / 1e6, row["end_us"] / 1e6) for row in rows]
    video_id = picked.video_id
    figures = {
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_visual_tokens": answer.num_visual_tokens,
        "num_new_tokens": answer.num_new_tokens,
        "time_to_first_token_s": answer.time_to_first_token_s,
    }
    if as_json:
        of_segments = {"segments_s": spans, "num_segments": len(picked.rows)}
        document = {"answer": answer.text, "video_id": video_id, **of_segments, **figures}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    console = make_console()
    console.print(answer.text, markup=False)
    if is_verbose:
        shown = ", ".join(
            f"{show_time(row['start_us'])}-{show_time(row['end_us'])}" for row in rows
        )
        console.print(f"  video          {video_id[:12]}")
        console.print(f"  segments       {len(spans)} of {len(picked.rows)}: {shown}")
        console.print(f"  prompt tokens  {answer.num_prompt_tokens}")
        console.print(f"  visual tokens  {answer.num_visual_tokens}")
        console.print(f"  first token    {answer.time_to_first_token_s * 1000:.1f} ms")


def show_import(made: "Imported", *, as_json: bool) -> None:
    """Print what an import made, and its identity as `sha256sum` can check it."""
    config = made.config
    document = {
        "directory": str(made.directory),
        "sha256": made.sha256,
        "is_new": made.is_new,
        "base_model": made.base_model,
        "num_parameters": made.num_parameters,
        "layers": len(config.layers),
        "modules": {m.name: [m.d_in, m.d_out] for m in config.modules},
        "rank": config.rank,
        "scaling": config.scaling,
    }
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    console = make_console()
    console.print("checkpoint imported" if made.is_new else "checkpoint was there already")
    for name, value in document.items():
        console.print(f"  {name:<15} {value}", markup=False)


def show_composition(row: "Row", *, is_saved: bool, as_json: bool) -> None:
    """Print what a composition is: coverage, rank, size, error."""
    if as_json:
        sys.stdout.write(json.dumps({**row, "is_saved": is_saved}) + "\n")
        return
    console = make_console()
    size = "no file" if row["size_bytes"] is None else f"{row['size_bytes']:,} bytes"
    console.print(f"composition     {row['composition_id']}")
    console.print(f"  segments        {row['num_segments']}, {row['covered_us'] / 1e6:g} s")
    console.print(f"  method          {row['method']}, rank {row['rank']}, {size}")
    console.print(f"  relative error  {row['relative_error']:.2e}")
    console.print("  stored" if is_saved else "  not stored; give --save to keep it")


def show_export(description: Mapping[str, Any], out: "Path", *, as_json: bool) -> None:
    """Print what an export wrote."""
    if as_json:
        sys.stdout.write(json.dumps({"out": str(out), **description}) + "\n")
        return
    console = make_console()
    columns = ["name", "rank", "exported_rank", "label"]
    rows = [[entry[column] for column in columns] for entry in description["adapters"]]
    console.print(make_table(columns, rows))
    console.print(f"bias {description['bias']}, base {description['base_model']}", markup=False)
    console.print(f"check it: video2lora verify-export {out}", markup=False)


def show_verified(found: Sequence["Verified"], *, as_json: bool) -> None:
    """Print what was found about each exported adapter, and why it must not be used."""
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(entry) for entry in found]) + "\n")
        return
    console = make_console()
    columns = ["name", "rank", "keys", "off by", "effect", "is right"]
    rows = [
        [e.name, e.rank, e.num_keys, e.difference, e.effect, "no" if e.faults else "yes"]
        for e in found
    ]
    console.print(make_table(columns, rows))
    for entry in found:
        for fault in entry.faults:
            console.print(f"{entry.name}: {fault}", markup=False)


def show_table(rows: "pa.Table", *, as_json: bool = False, as_csv: bool = False) -> None:
    """Print the rows of a query."""
    if as_json:
        sys.stdout.write(json.dumps(rows.to_pylist(), default=_plain) + "\n")
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows.column_names)
        writer.writerows(row.values() for row in rows.to_pylist())
    else:
        console = make_console()
        console.print(make_table(rows.column_names, [list(r.values()) for r in rows.to_pylist()]))
        console.print(f"{rows.num_rows} row{'' if rows.num_rows == 1 else 's'}")


def _plain(value: object) -> object:
    """Make JSON of what Arrow gives and JSON lacks: DuckDB's sums of integers are decimals."""
    if isinstance(value, Decimal):
        return int(value) if value == int(value) else float(value)
    return str(value)


def make_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> Table:
    """Lay rows out as a table, numbers to the right, long values shortened."""
    table = Table(title=title or None, title_justify="left")
    for index, name in enumerate(columns):
        is_number = any(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    # What a catalog holds is shown as it is: no markup, no control characters.
    text = "".join(char if char.isprintable() else " " for char in text).replace("[", "\\[")
    return text if len(text) <= _MAX_CELL else text[: _MAX_CELL - 3] + "..."
