"""Commands that train."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli_app import app, examples

Engine = Annotated[
    Literal["auto", "local", "prefect"],
    typer.Option("--engine", help="auto is prefect where a Prefect API is configured."),
]


@app.command(
    epilog=examples(
        "video2lora train --config configs/train/tiny.yaml --out runs/tiny",
        "video2lora train --config configs/train/tiny-corpus.yaml --out runs/corpus",
    )
)
def train(
    config: Annotated[Path, typer.Option("--config", help="A training config (YAML).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where checkpoints and curves go.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the last checkpoint in --out.")
    ] = True,
    engine: Engine = "auto",
) -> None:
    """Train a model's hypernetwork (for the embedded default its vision-language model too)."""
    from flows.training_console import run_training

    run_training(config, out=out, resume=resume, engine=engine)


@app.command(epilog=examples("video2lora teach --config configs/train/tiny-corpus.yaml"))
def teach(
    config: Annotated[Path, typer.Option("--config", help="A training config of kind corpus.")],
    shard: Annotated[
        int | None, typer.Option("--shard", help="Only this shard of the config's, from 0.")
    ] = None,
    engine: Engine = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Counts as JSON.")] = False,
) -> None:
    """Ask a training's teacher: the frozen model's own answers, kept in the lake as targets."""
    from flows.training_console import run_teacher

    run_teacher(config, shard=shard, engine=engine, as_json=as_json)
