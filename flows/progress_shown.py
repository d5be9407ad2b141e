"""Progress on stderr: a bar on a terminal, a line now and then in a pipe or as a log record."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flows.manners import LogFormat, current

if TYPE_CHECKING:  # console.py imports this module when it shows something
    from flows.console import ProgressLine
    from tasks.progress import Event

logger = logging.getLogger(__name__)

PIPE_PAUSE_S: Final = 10.0


def progress_shown(console: Console, line: "ProgressLine") -> AbstractContextManager[None]:
    """Show what is reported inside the `with` block, as this call's manners say."""
    manners = current()
    if manners.is_quiet:
        return _told(line, lambda _: None)
    if manners.log_format == LogFormat.JSON:
        return _told(line, lambda said: logger.info("%s", said))
    # Log lines would be written into the bar.
    if console.is_terminal and not manners.is_verbose:
        return _bar(console, line)
    return _told(line, lambda said: console.print(said))


@contextmanager
def _bar(console: Console, line: "ProgressLine") -> Iterator[None]:
    from tasks.progress import listening

    columns = (
        TextColumn("internalizing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("videos  {task.fields[line]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        shown = progress.add_task("", total=None, line="planning")

        def listen(event: "Event", count: int) -> None:
            line.count(event, count)
            total = line.counts["videos_planned"]
            progress.update(shown, total=total, completed=line.counts["videos"], line=line.text())

        with listening(listen):
            yield


@contextmanager
def _told(line: "ProgressLine", say: Callable[[str], None]) -> Iterator[None]:
    from tasks.progress import listening

    last_s = time.monotonic()

    def listen(event: "Event", count: int) -> None:
        nonlocal last_s
        line.count(event, count)
        if time.monotonic() - last_s >= PIPE_PAUSE_S:
            last_s = time.monotonic()
            say(_said(line, event))

    with listening(listen):
        yield


def _said(line: "ProgressLine", event: "Event") -> str:
    """Say how far the work is that the event belongs to: an evaluation does one after the other."""
    counts = line.counts
    if event in ("questions_planned", "questions"):
        return f"answering: {counts['questions']} of {counts['questions_planned']} questions"
    done, total = counts["videos"], counts["videos_planned"]
    return f"internalizing: {done} of {total} videos, {line.text()}"
