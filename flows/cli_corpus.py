"""Commands about a corpus: what a run would do, trying rejects again, following to a new recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_app import Json, app, examples

if TYPE_CHECKING:  # kept out of the start-up of commands that do not need them
    from configs.schema import InternalizeConfig
    from tasks.dry_run import DryRun

AnyLake = Annotated[
    str | None,
    typer.Option("--lake", help="The lake: a directory or s3://bucket/prefix.", metavar="URI"),
]
RunConfig = Annotated[
    Path | None, typer.Option("--config", help="A run config (YAML); flags win over it.")
]
AnyModel = Annotated[
    str | None, typer.Option("--model", help="A name of configs/models, or a path.")
]
AnyEngine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="local, prefect, or auto: prefect where a Prefect API is configured, else local.",
    ),
]
Price = Annotated[
    float | None, typer.Option("--price", help="What an hour of a device costs.", min=0)
]
KeepTokens = Annotated[
    bool,
    typer.Option(
        "--keep-visual-tokens",
        help="Keep what the vision tower saw, and take what is kept: saves decoding on a re-run.",
    ),
]
Dry = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


@app.command(
    epilog=examples(
        "video2lora plan videos/ --lake my-lake",
        "video2lora plan s3://team/footage --lake s3://team/lake --price 2.5 --json",
    )
)
def plan(
    corpus: Annotated[
        str | None,
        typer.Argument(
            help="A directory, a glob in quotes, one video, or a manifest (.parquet, .jsonl, .csv)."
        ),
    ] = None,
    lake: AnyLake = None,
    config: RunConfig = None,
    model: AnyModel = None,
    price: Price = None,
    keep_visual_tokens: KeepTokens = False,
    as_json: Json = False,
) -> None:
    """Say what internalizing a corpus would do, and write nothing.

    Videos, hours, segments, bytes, device-hours and cost, what is done already and what would be
    tried again. Rates are those that the lake measured under this recipe; the lake need not exist.
    """
    settings = _settings(
        config,
        corpus=corpus,
        lake=lake,
        model=model,
        price=price,
        keep_visual_tokens=keep_visual_tokens or None,
    )
    _show(settings, as_json=as_json)


@app.command(
    epilog=examples(
        "video2lora retry --lake my-lake",
        "video2lora retry --reason TRUNCATED --reason NOT_MEDIA --lake my-lake --dry-run",
    )
)
def retry(
    lake: AnyLake = None,
    reason: Annotated[
        list[str] | None,
        typer.Option(
            "--reason", help="Only rejects of this reason, final ones too; may be repeated."
        ),
    ] = None,
    config: RunConfig = None,
    model: AnyModel = None,
    engine: AnyEngine = None,
    price: Price = None,
    is_dry: Dry = False,
    as_json: Json = False,
) -> None:
    """Try again what was rejected under the current recipe.

    Without --reason, whatever a later try may cure: a file that was missing, a crashed decoder.
    Rejects that are final, such as a file that is no video, are tried again when their reason is
    named.
    """
    settings = _settings(
        config,
        corpus="catalog:rejects",
        retry_reasons=reason or None,
        lake=lake,
        model=model,
        engine=engine,
        price=price,
    )
    _run_or_show(settings, is_dry=is_dry, as_json=as_json)


@app.command(
    epilog=examples(
        "video2lora backfill --lake my-lake --model configs/models/tiny.yaml",
        "video2lora backfill --lake my-lake --dry-run",
    )
)
def backfill(
    lake: AnyLake = None,
    config: RunConfig = None,
    model: AnyModel = None,
    engine: AnyEngine = None,
    price: Price = None,
    keep_visual_tokens: KeepTokens = False,
    is_dry: Dry = False,
    as_json: Json = False,
) -> None:
    """Make the adapters that the lake's videos lack under the current recipe.

    For a new model or new settings: every video of the catalog that is not deleted is gone over
    again, from where it was found. The adapters of other recipes stay.
    """
    settings = _settings(
        config,
        corpus="catalog:videos",
        lake=lake,
        model=model,
        engine=engine,
        price=price,
        keep_visual_tokens=keep_visual_tokens or None,
    )
    _run_or_show(settings, is_dry=is_dry, as_json=as_json)


def _settings(config: Path | None, *, price: float | None, **overrides: Any) -> "InternalizeConfig":
    from configs.load import load_internalize_config

    return load_internalize_config(config, {**overrides, "price_per_device_hour": price})


def _run_or_show(settings: "InternalizeConfig", *, is_dry: bool, as_json: bool) -> None:
    if is_dry:
        _show(settings, as_json=as_json)
        return
    from flows.console import show_run, showing_progress
    from flows.run import run_internalize

    with showing_progress():
        summary = run_internalize(settings)
    show_run(summary, lake=settings.lake, as_json=as_json)


def _show(settings: "InternalizeConfig", *, as_json: bool) -> None:
    import dataclasses
    import json

    from flows.console import make_console, make_table
    from tasks.dry_run import dry_run

    found = dry_run(settings)
    if as_json:
        typer.echo(json.dumps({"lake": settings.lake, **dataclasses.asdict(found)}))
        return
    title = f"{settings.corpus} into {settings.lake}: nothing was written"
    make_console().print(make_table(["what", "how much"], _lines(found), title=title))


def _lines(found: "DryRun") -> list[list[str]]:
    """Lay the figures out for people; what nothing tells is said to be unknown."""
    of = "measured" if found.is_adapter_size_measured else "from the checkpoint's shapes"
    unknown = [["videos of unknown length", str(found.num_unknown)]] if found.num_unknown else []
    estimated = (
        [["hours estimated from sizes", f"{found.hours_estimated:.2f} ({found.num_estimated})"]]
        if found.num_estimated
        else []
    )
    return [
        ["videos listed", str(found.num_listed)],
        ["done already", f"{found.num_done} ({found.hours_done:.2f} hours)"],
        ["rejected for good", str(found.num_rejected)],
        ["deleted", str(found.num_deleted)],
        ["to do", f"{found.num_todo} ({found.size_bytes / 1e9:.3f} GB)"],
        ["of these tried again", str(found.num_retried)],
        ["hours known", f"{found.hours_known:.2f} ({found.num_known})"],
        *estimated,
        *unknown,
        ["segments", _of_known(found, str(found.num_segments))],
        ["adapters to write", _of_known(found, f"{found.adapter_bytes / 1e9:.3f} GB ({of})")],
        *_kept_tokens(found),
        ["device-hours", _rated(found, found.device_hours, "nothing measured under this recipe")],
        ["decode-hours", _rated(found, found.decode_hours, "nothing measured under this recipe")],
        ["cost", _rated(found, found.cost, "needs --price and a measured rate")],
        ["shards", str(found.num_shards)],
        ["units", "unknown" if found.num_units is None else str(found.num_units)],
    ]


def _kept_tokens(found: "DryRun") -> list[list[str]]:
    if found.visual_token_bytes is None:
        return []
    shown = f"at most {found.visual_token_bytes / 1e9:.3f} GB"
    return [["visual tokens to keep", _of_known(found, shown)]]


def _rated(found: "DryRun", value: float | None, why: str) -> str:
    return f"unknown: {why}" if value is None else _of_known(found, f"{value:.3f}")


def _of_known(found: "DryRun", text: str) -> str:
    """Say how far a figure is to be trusted that leaves out videos of unknown length."""
    if not found.num_unknown:
        return text
    return "unknown: no length is known" if found.num_unknown == found.num_todo else f"over {text}"
