"""Commands on adapters: composing them and carrying them elsewhere."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_app import AllowRandom, Json, Lake, Model, app, examples

Ids = Annotated[
    list[str] | None,
    typer.Option("--ids", help="Adapter or composition ids, with commas or given again."),
]
Sql = Annotated[
    str | None,
    typer.Option("--sql", help="A SELECT with a column adapter_sha256 or composition_id."),
]


@app.command(
    epilog=examples(
        "video2lora compose street.mp4 --lake my-lake --method svd --rank 64 --save",
        "video2lora compose street.mp4 --from 00:10 --to 01:00 --lake my-lake",
        "video2lora compose --sql 'select adapter_sha256 from adapters_latest' --lake my-lake "
        "--method top_k --bytes 1000000",
    )
)
def compose(
    lake: Lake,
    video: Annotated[
        str | None, typer.Argument(help="A video: id or first digits, path, URI or file name.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of the span: SS, MM:SS or H:MM:SS.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="End of the span.")] = None,
    ids: Ids = None,
    sql: Sql = None,
    method: Annotated[
        str, typer.Option("--method", help="concat (exact), top_k or svd (both with a budget).")
    ] = "concat",
    rank: Annotated[int | None, typer.Option("--rank", help="Most ranks, bias aside.")] = None,
    num_bytes: Annotated[
        int | None, typer.Option("--bytes", help="Or most bytes of the file.")
    ] = None,
    coefficients: Annotated[
        str | None, typer.Option("--coefficients", help="One number per adapter, with commas.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of svd's randomised path.")] = 0,
    save: Annotated[bool, typer.Option("--save", help="Store it in the lake.")] = False,
    model: Model = "tiny",
    allow_random: AllowRandom = False,
    as_json: Json = False,
) -> None:
    """Sum adapters of a video, a span, a list or a query; reduce the sum where a budget asks.

    Prints rank, coverage and the relative error. `ask --composition ID` uses what was stored.
    """
    from flows.api import open_lake
    from flows.console import show_composition
    from tasks.compose_adapters import reduction_of

    opened = open_lake(lake, model=model, allow_random=allow_random)
    numbers = _numbers(coefficients)
    if _one_choice(video, ids=ids, sql=sql) == "video":
        picked = opened.pick(video or "", **_span(start, end))
        members = opened.members(picked.ids, coefficients=numbers)
    else:
        members = opened.members(_split(ids), sql=sql, coefficients=numbers)
    how = reduction_of(method, rank=rank, num_bytes=num_bytes, seed=seed)
    composed = opened.composition(members, how)
    if save:
        opened.save(composed)
    show_composition(composed.row, is_saved=save, as_json=as_json)


@app.command(
    epilog=examples(
        "video2lora export street.mp4 --for peft --out street-peft --lake my-lake",
        "video2lora export --sql 'select adapter_sha256 from adapters_latest' --for vllm "
        "--out served --lake my-lake",
        "video2lora export --composition 3fa9c1d2 --for vllm --bias merged --out served "
        "--lake my-lake",
    )
)
def export(
    lake: Lake,
    out: Annotated[Path, typer.Option("--out", help="A directory that is not there yet.")],
    purpose: Annotated[str, typer.Option("--for", help="peft or vllm.")],
    videos: Annotated[
        list[str] | None, typer.Argument(help="Videos, each exported whole, as one adapter.")
    ] = None,
    ids: Ids = None,
    sql: Sql = None,
    composition: Annotated[
        list[str] | None, typer.Option("--composition", help="A stored composition's id.")
    ] = None,
    bias: Annotated[
        str,
        typer.Option("--bias", help="included (in each), apart, or merged (into a base copy)."),
    ] = "included",
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32 (exact) or bfloat16 (half the size).")
    ] = "float32",
    base_name: Annotated[
        str | None, typer.Option("--base-name", help="Name the base is loaded or served by.")
    ] = None,
    model: Model = "tiny",
    allow_random: AllowRandom = False,
    as_json: Json = False,
) -> None:
    """Write adapters as PEFT directories, for PEFT or for a vLLM server.

    Each video becomes one adapter, each id and each row of a query one of its own. Check the result
    with `video2lora verify-export` before it is used.
    """
    from flows.api import open_lake
    from flows.console import show_export
    from tasks.export_adapters import export_settings

    given = [*(ids or []), *(composition or [])]
    _one_choice(*(videos or [])[:1], ids=given, sql=sql)
    settings = export_settings(purpose=purpose, bias=bias, dtype=dtype, base_name=base_name)
    opened = open_lake(lake, model=model, allow_random=allow_random)
    chosen = [f"composition:{c}" for c in composition or []]
    found = opened.export(
        out, [*(videos or []), *chosen], adapters=_split(ids), sql=sql, settings=settings
    )
    show_export(found, out, as_json=as_json)


@app.command("verify-export", epilog=examples("video2lora verify-export street-peft --model tiny"))
def verify_export(
    directory: Annotated[Path, typer.Argument(help="What `video2lora export` wrote.")],
    model: Model = "tiny",
    lake: Annotated[
        str | None,
        typer.Option("--lake", help="Where the lake is now, if it moved.", metavar="URI"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Load an export with PEFT and compare its logits with the native path; exit code 1 if wrong.

    Every key must match, the logits must be ours within tolerance, and must not be the base's.
    """
    from flows.api import open_lake
    from flows.console import show_verified
    from tasks.verify_export import read_export
    from tasks.verify_export import verify_export as verify

    opened = open_lake(lake or read_export(directory)["lake"], model=model)
    found = verify(directory, opened.lake, opened.config)
    show_verified(found, as_json=as_json)
    if not found or any(entry.faults for entry in found):
        raise typer.Exit(1)


def _one_choice(video: str | None = None, *, ids: list[str] | None, sql: str | None) -> str:
    from video2lora_core.errors import UsageError

    given = [n for n, v in (("video", video), ("ids", ids), ("sql", sql)) if v]
    if len(given) != 1:
        raise UsageError(
            f"what to take: {', '.join(given) or 'nothing'} was given (expected one of a video, "
            "--ids and --sql); name exactly one"
        )
    return given[0]


def _split(ids: list[str] | None) -> list[str] | None:
    return [part.strip() for text in ids for part in text.split(",")] if ids else None


def _numbers(text: str | None) -> list[float] | None:
    from video2lora_core.errors import UsageError

    try:
        return [float(part) for part in text.split(",")] if text else None
    except ValueError:
        raise UsageError(
            f"coefficients: {text!r} cannot be read (expected numbers with commas between); write "
            "for example 1,0.5"
        ) from None


def _span(start: str | None, end: str | None) -> dict[str, Any]:
    from flows.clock import parse_time_us

    return {
        "start_s": parse_time_us(start) / 1e6 if start else None,
        "end_s": parse_time_us(end) / 1e6 if end else None,
    }
