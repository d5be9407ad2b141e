"""Commands that train."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_app import app, examples


@app.command(epilog=examples("video2lora train --config configs/train/tiny.yaml --out runs/tiny"))
def train(
    config: Annotated[Path, typer.Option("--config", help="A training config (YAML).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where checkpoints and curves go.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the last checkpoint in --out.")
    ] = True,
) -> None:
    """Train a model's hypernetwork (for the embedded default its vision-language model too)."""
    from flows.train_hypernetwork import train_hypernetwork

    train_hypernetwork(config, out=out, resume=resume)
