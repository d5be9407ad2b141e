"""Commands that keep a lake well: checking, compacting, cleaning up, deleting."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_app import Json, Lake, app, examples

if TYPE_CHECKING:  # imported when a command runs: --help stays light
    from tasks.keep_lake import Kept

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")
]


@app.command(
    epilog=examples(
        "video2lora verify --lake my-lake",
        "video2lora verify --lake s3://team/lake --sample 1000 --json",
        "video2lora verify --lake my-lake --video street.mp4",
    )
)
def verify(
    lake: Lake,
    video: Annotated[
        str | None, typer.Option("--video", help="Only this video: an id, a URI or a file name.")
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", help="Read so many adapters at random.", min=1)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look for files and their sizes; read none of them.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check that a lake is whole; exit code 1 where it is not, with each fault and its fix.

    Every row has its file, with the right bytes, shapes and finite numbers; adapters and rejects
    tile each video; tables, checkpoints and plans can be read. Safe while writers run.
    """
    from flows import maintain_catalog
    from flows.local_engine import LocalEngine

    kept = maintain_catalog.verify(LocalEngine(), lake, video=video, sample=sample, quick=quick)
    _show(kept, as_json=as_json)
    if kept.rows:
        raise typer.Exit(1)


@app.command(
    epilog=examples(
        "video2lora compact --lake my-lake --dry-run", "video2lora compact --lake s3://team/lake"
    )
)
def compact(
    lake: Lake,
    history_days: Annotated[
        float,
        typer.Option("--history-days", help="Days that `sql --as-of` can go back.", min=0.0),
    ] = 7.0,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Turn the catalog's many small files into few, so that queries and commits stay fast.

    Safe while writers run; one at a time per lake.
    """
    from flows import maintain_catalog
    from flows.local_engine import LocalEngine

    kept = maintain_catalog.compact(LocalEngine(), lake, dry_run=dry_run, history_days=history_days)
    _show(kept, as_json=as_json)


@app.command(
    epilog=examples(
        "video2lora gc --lake my-lake --dry-run",
        "video2lora gc --lake s3://team/lake --grace 6",
        "video2lora gc --visual-tokens all --lake my-lake",
    )
)
def gc(
    lake: Lake,
    grace: Annotated[
        float,
        typer.Option("--grace", help="Hours that a file must be untouched; more than a commit."),
    ] = 1.0,
    now: Annotated[
        bool, typer.Option("--now", help="Wait for nothing. Only where nothing writes.")
    ] = False,
    visual_tokens: Annotated[
        str | None,
        typer.Option(
            "--visual-tokens",
            metavar="SIGHT",
            help="Also delete kept visual tokens: of one sight (first digits of its id), or all.",
        ),
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete files that nothing names: of deleted videos, of dead writers, of compacted tables.

    What nothing names is moved to garbage/ inside the lake, and deleted by a later gc, at least
    --grace hours after. Safe while writers run, except with --now.
    """
    from flows import maintain_catalog
    from flows.local_engine import LocalEngine

    kept = maintain_catalog.gc(
        LocalEngine(),
        lake,
        dry_run=dry_run,
        grace_hours=grace,
        now=now,
        visual_tokens=visual_tokens,
    )
    _show(kept, as_json=as_json)


@app.command(
    epilog=examples(
        "video2lora delete --video street.mp4 --lake my-lake --dry-run",
        "video2lora delete --video 3fa9c1 --reason 'asked by its owner' --lake my-lake",
    )
)
def delete(
    lake: Lake,
    video: Annotated[
        str, typer.Option("--video", help="A video id or its first digits, a URI or a file name.")
    ],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept with the deletion.")] = None,
    undo: Annotated[
        bool, typer.Option("--undo", help="Let the video be made again (give its full id).")
    ] = False,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Delete old table files now: ends every `--as-of` before."),
    ] = False,
    now: Annotated[
        bool,
        typer.Option("--now", help="Delete the files at once too. Only where nothing writes."),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Delete a video and all that was made of it; later runs leave it out.

    Adapters, segments, rejects, answers and compositions go, those over several videos too. The
    files go with the next `gc`. Safe while writers run, except with --now.
    """
    from flows import maintain_catalog
    from flows.local_engine import LocalEngine

    engine = LocalEngine()
    kept = maintain_catalog.delete(
        engine, lake, video=video, reason=reason, dry_run=dry_run, undo=undo, purge=purge
    )
    done = [kept]
    if now and not undo:
        done.append(maintain_catalog.gc(engine, lake, dry_run=dry_run, now=True))
    _show(*done, as_json=as_json)


def _show(*done: "Kept", as_json: bool) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        documents = [asdict(kept) for kept in done]
        typer.echo(json.dumps(documents[0] if len(documents) == 1 else documents))
        return
    for kept in done:
        _show_one(kept)


def _show_one(kept: "Kept") -> None:
    from flows.console import make_console, make_table

    console = make_console()
    for row in kept.rows if kept.action == "verify" else ():
        text = f"{row['kind']}: {row['where']}\n  {row['what']}\n  fix: {row['fix']}"
        console.print(text, markup=False)
    if kept.action == "compact" and kept.rows:
        names = list(kept.rows[0])
        console.print(make_table(names, [list(row.values()) for row in kept.rows]))
    counted = ", ".join(f"{name} {number}" for name, number in kept.counts.items())
    verb = "would do" if kept.is_dry_run else "done"
    console.print(f"{kept.action}: {verb}: {counted}", markup=False)
