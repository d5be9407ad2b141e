"""Train from a config, with a progress bar per stage; the stages themselves are tasks.train."""

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from flows.console import make_console
from tasks.train import run

_SHOWN = ("loss", "answer_loss")


def train_hypernetwork(config: Path, *, out: Path | None, resume: bool) -> Path:
    """Train what `config` describes; return the directory of the finished model."""
    console = make_console()
    with _Bars(console) as bars:
        directory = run(config, out=out, resume=resume, report=bars.report)
    console.print(f"model    {directory / 'vlm'} and {directory / 'hypernetwork'}")
    console.print(f"curves   {directory / 'curves.png'}, {directory}/*/log.jsonl")
    console.print(f"measure  python -m tasks.model_card --run {directory}")
    return directory


class _Bars:
    """One bar per stage on a terminal; one line per tenth of a stage elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<13}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> "_Bars":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def report(self, stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        """Show how far a stage is."""
        text = " ".join(f"{name} {metrics[name]:.3f}" for name in _SHOWN if name in metrics)
        if self._console.is_terminal:
            if stage not in self._bars:
                self._bars[stage] = self._progress.add_task(stage, total=steps, metrics="")
            self._progress.update(self._bars[stage], completed=step, metrics=text)
            return
        tenth = 10 * step // steps
        if tenth > self._tenths.get(stage, -1):
            self._tenths[stage] = tenth
            self._console.print(f"{stage}: step {step} of {steps}, {text}")
