"""Commands for whoever runs it: what is going on, and what is wrong."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_app import Json, Lake, Model, app, examples

Run = Annotated[
    str | None, typer.Option("--run", help="The first digits of a run's id.", metavar="ID")
]
Price = Annotated[
    float | None,
    typer.Option("--price-per-device-hour", help="What an hour of a device costs.", min=0),
]


@app.command(
    epilog=examples(
        "video2lora status --lake my-lake",
        "video2lora status --lake s3://team/lake --run 3fa9c1 --price-per-device-hour 2.5",
        "watch -n 30 video2lora status --lake my-lake",
    )
)
def status(lake: Lake, run: Run = None, price: Price = None, as_json: Json = False) -> None:
    """Say how far the runs of a lake are: shards, rates, time left, rejects, cost.

    It asks the catalog alone, so it works from any machine and while a run is going on; what is not
    committed yet is not counted. With --run also the shards: who worked on each last, and when.
    """
    from tasks.status import read_status

    found = read_status(lake, run=run, price=price)
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps(dataclasses.asdict(found)))
        return
    from flows.show_status import show_status

    show_status(found)


@app.command(
    epilog=examples(
        "video2lora report --lake my-lake --out report.html",
        "video2lora report --lake s3://team/lake --run 3fa9c1 --out run.html --answers 50",
    )
)
def report(
    lake: Lake,
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    run: Run = None,
    price: Price = None,
    num_answers: Annotated[
        int, typer.Option("--answers", help="How many of the last answers to show.", min=0)
    ] = 24,
    as_json: Json = False,
) -> None:
    """Write a page about a run, the last one if none is named: one HTML file without any script.

    Throughput, where the time went, rejects with examples, slow videos, cost, and the last answers
    beside pictures of the segments that they were answered from.
    """
    from tasks.run_report import ReportSettings, write_report

    made = write_report(
        ReportSettings(lake=lake, out=out, run=run, price=price, num_answers=num_answers)
    )
    if as_json:
        import json

        typer.echo(json.dumps(made))
        return
    typer.echo(f"{out}: run {made['run_id'][:12]}, {made['size_bytes']:,} bytes")


@app.command(
    epilog=examples(
        "video2lora doctor",
        "video2lora doctor --lake s3://team/lake --model smolvlm2-500m",
        "video2lora doctor --lake my-lake --json",
    )
)
def doctor(
    lake: Annotated[
        str | None, typer.Option("--lake", help="A lake to look at too.", metavar="URI")
    ] = None,
    model: Model = "tiny",
    decoder: Annotated[str, typer.Option("--decoder", help="The one that you use.")] = "pyav",
    min_free_gb: Annotated[
        float, typer.Option("--min-free-gb", help="Less room on a disk is a fault.", min=0)
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Look for what is wrong: versions, devices, decoders, disks, model, lake, S3, Prefect.

    Each thing is tried for real: a video is made and decoded, a file is put into the lake twice and
    removed. Every fault comes with what it means and what to do. Exit code 1 where there is one.
    """
    from flows.show_doctor import show_examination
    from tasks.doctor.finding import Patient

    patient = Patient(
        lake=lake,
        model=model,
        decoder=decoder,
        prefect_api=_prefect_api(),
        min_free_bytes=int(min_free_gb * 1e9),
    )
    if show_examination(patient, as_json=as_json):
        raise typer.Exit(1)


def _prefect_api() -> str | None:
    import os

    from flows.prefect_settings import is_api_configured

    if not is_api_configured():
        return None
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())
