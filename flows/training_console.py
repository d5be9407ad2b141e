"""Run a training from the command line: choose the engine, show a bar per stage."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from configs.train_corpus_schema import CorpusTrainConfig, load_train_config
from configs.train_schema import TrainConfig
from flows import prefect_settings
from flows.console import make_console
from flows.local_engine import LocalEngine
from flows.teacher_targets import ask_teacher
from flows.train_hypernetwork import train_hypernetwork
from storage.manifest import refuse_credentials
from tasks.teacher_targets import TeachSummary
from video2lora_core.errors import UsageError

EngineName = Literal["auto", "local", "prefect"]

_SHOWN = ("loss", "answer_loss", "held_out_loss")


def run_training(config_path: Path, *, out: Path | None, resume: bool, engine: EngineName) -> Path:
    """Train what a config's file describes; return the directory of the finished model."""
    config, console = _load(config_path), make_console()
    if _is_prefect(engine):
        from flows.prefect_training import train_flow

        directory = Path(train_flow(config, str(out) if out else None, resume))
    else:
        with _Bars(console) as bars:
            directory = train_hypernetwork(
                config, LocalEngine(), out=out, resume=resume, report=bars.report
            )
    if os.environ.get("RANK", "0") == "0":
        _show_end(console, config, directory)
    return directory


def run_teacher(
    config_path: Path, *, shard: int | None, engine: EngineName, as_json: bool
) -> list[TeachSummary]:
    """Ask the teacher of a config's file about all that has no answer yet."""
    config = _load(config_path)
    if isinstance(config, TrainConfig):
        raise UsageError(
            f"{config_path}: the embedded default learns from its world's own answers (expected "
            "`kind: corpus`); there is no teacher to ask"
        )
    if shard is not None and not 0 <= shard < config.teacher.shards:
        raise UsageError(
            f"teach: there is no shard {shard} (the config has {config.teacher.shards}, counted "
            "from 0); give another"
        )
    if _is_prefect(engine):
        from flows.prefect_training import teach_flow

        made = teach_flow(config, shard)
    else:
        made = ask_teacher(config, LocalEngine(), shard=shard)
    totals = {
        "num_examples": sum(one.num_examples for one in made),
        "num_asked": sum(one.num_asked for one in made),
        "num_rejects": sum(one.num_rejects for one in made),
    }
    if as_json:
        sys.stdout.write(json.dumps(totals) + "\n")
    else:
        make_console().print(
            f"teacher  {totals['num_asked']} asked, "
            f"{totals['num_examples'] - totals['num_asked']} answered before, "
            f"{totals['num_rejects']} cannot be shown"
        )
    return made


def _load(path: Path) -> TrainConfig | CorpusTrainConfig:
    config = load_train_config(path)
    if isinstance(config, CorpusTrainConfig):
        # Before an engine sees them: Prefect stores the parameters of its runs.
        for uri in (config.lake, config.corpus, config.questions or ""):
            refuse_credentials(uri)
    return config


def _is_prefect(engine: EngineName) -> bool:
    if engine == "auto":
        engine = "prefect" if prefect_settings.is_api_configured() else "local"
    if engine == "prefect":
        prefect_settings.apply()
    return engine == "prefect"


def _show_end(console: Console, config: TrainConfig | CorpusTrainConfig, directory: Path) -> None:
    if isinstance(config, TrainConfig):
        console.print(f"model    {directory / 'vlm'} and {directory / 'hypernetwork'}")
        console.print(f"curves   {directory / 'curves.png'}, {directory}/*/log.jsonl")
        console.print(f"measure  python -m tasks.model_card --run {directory}")
        return
    console.print(f"model    {directory / 'model.yaml'}: use it as --model")
    console.print(f"log      {directory / 'training' / 'log.jsonl'}")


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
