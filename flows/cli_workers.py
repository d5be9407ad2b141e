"""Commands for Prefect deployments: deploying, workers, and finishing what workers left undone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_app import Json, Lake, app, examples

if TYPE_CHECKING:  # imported when a command runs: --help stays light
    from flows.reconcile import Reconciled

_POOL = "video2lora-device"


@app.command(
    epilog=examples(
        "video2lora deploy --lake s3://team/lake --corpus s3://team/footage",
        "video2lora deploy --lake /data/lake --corpus /data/videos --schedules",
    )
)
def deploy(
    lake: Lake,
    corpus: Annotated[
        str, typer.Option("--corpus", help="What is internalized: a directory or a manifest.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="A name of configs/models, or a model config's path.")
    ] = "tiny",
    questions: Annotated[
        str | None, typer.Option("--questions", help="Questions that are asked of every new run.")
    ] = None,
    schedules: Annotated[
        bool, typer.Option("--schedules", help="Switch every schedule on, not only reconcile's.")
    ] = False,
    file: Annotated[Path, typer.Option("--file", help="The deployments.", metavar="YAML")] = Path(
        "prefect.yaml"
    ),
    show: Annotated[
        bool, typer.Option("--print", help="Print the filled-in YAML, and deploy nothing.")
    ] = False,
) -> None:
    """Create work pools and deployments on the Prefect server, with this lake and corpus.

    It fills the first lines of prefect.yaml in and runs `prefect deploy --all`: run it again
    whenever something changes. The file itself is not changed.
    """
    from flows.deploy import Settings, deploy_all, filled

    settings = Settings(
        lake=lake, corpus=corpus, model=model, questions=questions, is_scheduled=schedules
    )
    if show:
        typer.echo(filled(file, settings))
    else:
        deploy_all(file, settings)


@app.command(
    epilog=examples(
        "video2lora worker --devices all",
        "video2lora worker --devices 0,1",
        "video2lora worker --devices cpu --pool video2lora-control --limit 4",
    )
)
def worker(
    devices: Annotated[
        str, typer.Option("--devices", help="all, cpu, or CUDA devices such as 0,1.")
    ] = "all",
    pool: Annotated[str, typer.Option("--pool", help="The work pool to take runs from.")] = _POOL,
    limit: Annotated[
        int, typer.Option("--limit", help="Runs that each worker has at a time.", min=1)
    ] = 1,
    grace: Annotated[
        float, typer.Option("--grace", help="Seconds that runs have to end when told to.", min=0)
    ] = 60.0,
) -> None:
    """Run one Prefect worker per device until told to end.

    Each is a `prefect worker start` process with CUDA_VISIBLE_DEVICES set; one that dies is started
    again. SIGTERM or Ctrl-C ends workers and shards: what is complete is committed.
    """
    import logging

    from flows import prefect_settings
    from flows.device_workers import Supervisor, WorkerPlan, parse_devices
    from video2lora_core.errors import UsageError

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not prefect_settings.is_api_configured():
        raise UsageError(
            "worker: no Prefect server is configured (PREFECT_API_URL is not set, and no profile "
            "names one); start `prefect server start`, then set PREFECT_API_URL"
        )
    prefect_settings.apply()
    plan = WorkerPlan(
        devices=parse_devices(devices, count_devices=_count_devices),
        pool=pool,
        limit=limit,
        grace_s=grace,
    )
    raise typer.Exit(Supervisor(plan=plan).run())


@app.command(
    epilog=examples(
        "video2lora reconcile --lake my-lake --dry-run",
        "video2lora reconcile --lake s3://team/lake --stuck-after 600",
    )
)
def reconcile(
    lake: Lake,
    stuck_after: Annotated[
        float,
        typer.Option("--stuck-after", help="Seconds without a new row until a shard is lost."),
    ] = 1800.0,
    max_attempts: Annotated[
        int, typer.Option("--max-attempts", help="Attempts at a shard before it is left.", min=1)
    ] = 5,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Finish runs that were left: submit lost shards again, publish what is complete.

    Asks the configured Prefect server what became of each shard that is not done. Without a server
    it publishes what is complete and reports the rest. Safe to run at any time, and twice at once.
    """
    from flows import prefect_settings

    if prefect_settings.is_api_configured():
        prefect_settings.apply()
        from flows.prefect_reconcile import reconcile_here

        done = reconcile_here(lake, stuck_after, max_attempts, is_dry_run=dry_run)
    else:
        from flows.reconcile import reconcile_locally

        done = reconcile_locally(lake, is_dry_run=dry_run)
    _show(done, as_json=as_json)


def _show(done: "list[Reconciled]", *, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in done]))
        return
    for entry in done:
        how = ", ".join(f"{number} {name}" for name, number in sorted(entry.verdicts.items()))
        typer.echo(
            f"run {entry.run_id[:12]} ({entry.corpus}): {entry.outcome}, {entry.num_open} of "
            f"{entry.num_shards} shards not done{': ' + how if how else ''}"
            f"{f'; {entry.num_submitted} submitted again' if entry.num_submitted else ''}"
        )
    if not done:
        typer.echo("every run is published")


def _count_devices() -> int:
    import torch

    return torch.cuda.device_count()
