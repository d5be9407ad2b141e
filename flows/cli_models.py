"""Commands on models and checkpoints."""

from typing import Annotated

import typer

from flows.cli_app import Json, Model, app, examples


@app.command(
    epilog=examples(
        "video2lora calibrate",
        "video2lora calibrate --model my-model.yaml --videos validation/ --num-segments 512",
    )
)
def calibrate(
    model: Model = "tiny",
    videos: Annotated[
        str | None,
        typer.Option(
            "--videos",
            help="Validation videos: a directory, a glob in quotes, or a manifest. The embedded "
            "default renders its own.",
            metavar="CORPUS",
        ),
    ] = None,
    num_segments: Annotated[
        int, typer.Option("--num-segments", help="Segments to learn from.", min=32)
    ] = 256,
    as_json: Json = False,
) -> None:
    """Learn what norms a checkpoint's adapters have, so that outliers are rejected.

    The bounds are written into the checkpoint's JSON. Its sha256 and the adapters made with it stay
    what they are.
    """
    from configs.load import load_model_config
    from flows.calibration import show_calibration
    from flows.console import showing_progress
    from tasks.calibrate import calibrate as learn

    with showing_progress():
        found = learn(load_model_config(model), corpus=videos, num_segments=num_segments)
    show_calibration(found, as_json=as_json)
