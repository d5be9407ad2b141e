"""Commands on models and checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_app import Json, app, examples


@app.command(
    name="import-checkpoint",
    epilog=examples(
        "video2lora import-checkpoint frames2lora-smolvlm2-500m-best-ce.pt --to checkpoints/500m",
    ),
)
def import_checkpoint(
    released: Annotated[Path, typer.Argument(help="The authors' .pt file.")],
    to: Annotated[Path, typer.Option("--to", help="Directory to write the checkpoint into.")],
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", help="The text it was internalized with; the released ones' own."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn a released checkpoint (a pickle) into safetensors and JSON, without running it.

    A file that would do more than hold tensors is refused, and so is one that needs options of the
    authors' code which are not implemented here.
    """
    from flows.console import show_import
    from tasks.import_checkpoint import import_checkpoint as run_import
    from video2lora_core.prompts import SMOLVLM2

    made = run_import(
        released, to, internalization_prompt=prompt or SMOLVLM2.internalization_prompt
    )
    show_import(made, as_json=as_json)
