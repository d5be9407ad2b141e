"""What `video2lora answer` prints: how far it is, and what came out."""

import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flows.console import make_console

if TYPE_CHECKING:  # kept out of the start-up of commands that do not need them
    from tasks.answer_summary import AnswerSummary
    from tasks.progress import Event

_PIPE_PAUSE_S = 10.0


@contextmanager
def showing_questions() -> Iterator[None]:
    """Show the progress of the answers given inside the `with` block, on stderr."""
    from tasks.progress import listening

    console = make_console(is_error=True)
    with _bar(console) if console.is_terminal else _lines(console) as show:
        counts: Counter[Event] = Counter()

        def listen(event: "Event", count: int) -> None:
            counts[event] += count
            show(counts)

        with listening(listen):
            yield


def show_answers(summary: "AnswerSummary", *, lake: str, out: Path | None, as_json: bool) -> None:
    """Print what a run of answers did and what the lake now holds of its question set."""
    spent = summary.shards
    rate = spent.num_answered / spent.wall_s if spent.num_answered else None
    if as_json:
        figures = {"questions_per_s": rate, "out": None if out is None else str(out)}
        document = {"lake": lake, **dataclasses.asdict(summary), **figures}
        sys.stdout.write(json.dumps(document) + "\n")
        return
    console = make_console()
    found = summary.found
    console.print(
        f"{summary.plan.num_questions} questions about {summary.plan.num_videos} videos: "
        f"{found.num_answers} answered ({spent.num_answered} of them now), "
        f"{sum(found.rejects.values())} rejected"
    )
    for reason, count in found.rejects.items():
        console.print(f"  {reason:<18} {count}", markup=False)
    if found.rejects:
        console.print(
            "  see why: video2lora sql 'select question_id, reason, detail from question_rejects' "
            f"--lake {lake}",
            markup=False,
        )
    if summary.num_internalized:
        console.print(f"videos internalized first: {summary.num_internalized}")
    if rate is not None:
        console.print(f"questions/s      {rate:.3g}, loading the model included")
    if found.time_to_first_token_s is not None:
        console.print(f"first token      {found.time_to_first_token_s * 1000:.1f} ms (median)")
        console.print(f"prompt tokens    {found.num_prompt_tokens:,}")
    console.print(f"run              {summary.plan.run_id}")
    if out is not None:
        console.print(f"written          {out}", markup=False)


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[Counter["Event"]], None]]:
    columns = (
        TextColumn("answering"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("questions  {task.fields[line]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        shown = progress.add_task("", total=None, line="planning")

        def show(counts: Counter["Event"]) -> None:
            total, done = counts["questions_planned"] or None, counts["questions"]
            progress.update(shown, total=total, completed=done, line=_line(counts))

        yield show


@contextmanager
def _lines(console: Console) -> Iterator[Callable[[Counter["Event"]], None]]:
    last_s = time.monotonic()

    def show(counts: Counter["Event"]) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _PIPE_PAUSE_S:
            last_s = time.monotonic()
            done, total = counts["questions"], counts["questions_planned"]
            console.print(f"answering: {done} of {total} questions, {_line(counts)}")

    yield show


def _line(counts: Counter["Event"]) -> str:
    if not counts["questions_planned"]:
        return f"{counts['segments']} segments internalized" if counts["segments"] else "planning"
    return f"{counts['rejects']} rejects"
