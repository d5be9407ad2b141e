"""`video2lora ...`: parse, load the config, call a flow or a query, print.

Nothing heavy is imported before a command needs it: `--help` loads neither torch nor Prefect.
Every error ends as one line on stderr and exit code 1; a wrong call ends with code 2, Ctrl-C with
130 (cli_app.py has them all).
"""

import atexit
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import CommandInfo

from flows import (
    cli_adapters,
    cli_bench,
    cli_benchmark_sets,
    cli_corpus,
    cli_evaluate,
    cli_maintenance,
    cli_models,
    cli_operate,
    cli_questions,
    cli_train,
    cli_workers,
)
from flows.cli_app import (
    REJECTED,
    AllowRandom,
    FailOnRejects,
    Json,
    Lake,
    MetricsHost,
    MetricsPort,
    Model,
    app,
    examples,
    fail,
)
from flows.manners import LogFormat, Manners, behave

# Importing them is what makes their commands part of `app`.
COMMANDS = (
    cli_adapters,
    cli_corpus,
    cli_questions,
    cli_benchmark_sets,
    cli_evaluate,
    cli_train,
    cli_models,
    cli_maintenance,
    cli_operate,
    cli_workers,
    cli_bench,
)
FIRST = ("demo", "internalize", "ask", "sql", "plan")


def main() -> None:
    """Run the command line; the entry point of the installed program."""
    # transformers draws a bar for every model it loads, into the middle of ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    atexit.register(_hush_teardown)  # registered first, so it runs last
    try:
        app()
    except Exception as error:  # the edge: whatever happened ends as one line
        if "--traceback" in sys.argv:
            raise
        fail(_one_line(error), code=1)


def _hush_teardown() -> None:
    # Where a thread of Prefect's is alive to the end, duckdb 2.0 lists its own types as leaked: 40
    # lines on stderr that mean nothing.
    if {"duckdb", "prefect"} <= sys.modules.keys():
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"video2lora {version('video2lora')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="On an error show Python's whole traceback.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no warnings.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what each step logs, too.")
    ] = False,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", help="How stderr is written: text, or json, one per line."),
    ] = LogFormat.TEXT,
) -> None:
    """Turn videos into LoRA adapters, and ask a frozen model about them."""
    from flows.logs import set_up_logging

    behave(Manners(is_quiet=quiet, is_verbose=verbose, log_format=log_format))
    set_up_logging()


@app.command(
    epilog=examples(
        "video2lora internalize videos/ --lake my-lake",
        "video2lora internalize 'footage/**/*.mkv' --lake s3://team/lake --engine prefect",
        "video2lora internalize --config configs/internalize.yaml",
    )
)
def internalize(
    corpus: Annotated[
        str | None,
        typer.Argument(
            help="A directory, a glob in quotes, one video, or a manifest (.parquet, .jsonl, .csv)."
        ),
    ] = None,
    lake: cli_corpus.AnyLake = None,
    config: cli_corpus.RunConfig = None,
    model: cli_corpus.AnyModel = None,
    engine: cli_corpus.AnyEngine = None,
    decoder: Annotated[str | None, typer.Option("--decoder", help="pyav or decord.")] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Random weights of the model's architecture: for benchmarks and tests.",
        ),
    ] = False,
    keep_visual_tokens: cli_corpus.KeepTokens = False,
    corpus_name: Annotated[
        str | None, typer.Option("--corpus-name", help="Name of the corpus in the catalog.")
    ] = None,
    fail_on_rejects: FailOnRejects = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Turn the videos of a corpus into adapters in a lake.

    Videos that the lake holds already are neither read nor decoded again. A video that cannot be
    used becomes a row of the `rejects` table, and the rest goes on.
    """
    from configs.load import load_internalize_config
    from flows.console import show_run, showing_progress
    from flows.run import run_internalize
    from tasks.metrics_server import serving_metrics

    overrides: dict[str, Any] = {
        "corpus": corpus,
        "lake": lake,
        "model": model,
        "engine": engine,
        "decoder": decoder,
        "random_weights": random_weights or None,
        "keep_visual_tokens": keep_visual_tokens or None,
        "corpus_name": corpus_name,
    }
    settings = load_internalize_config(config, overrides)
    with serving_metrics(metrics_port, host=metrics_host), showing_progress():
        summary = run_internalize(settings)
    show_run(summary, lake=settings.lake, as_json=as_json)
    if fail_on_rejects and summary.shards.num_rejects:
        raise typer.Exit(REJECTED)


@app.command(
    epilog=examples(
        "video2lora ask street.mp4 'What colour is the car?' --lake my-lake",
        "video2lora ask 3fa9c1 'What happens?' --from 00:10 --to 00:20 --lake my-lake -v",
        "video2lora ask long.mp4 'Is there a red ball?' --lake my-lake --strategy route -v",
        "video2lora ask composition:3fa9c1d2 'What happens?' --lake my-lake",
    )
)
def ask(
    video: Annotated[
        str,
        typer.Argument(
            help="A video id or its first digits, a path or URI, a file name, or composition:ID."
        ),
    ],
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    lake: Lake,
    start: Annotated[
        str | None, typer.Option("--from", help="Start of the span: SS, MM:SS or H:MM:SS.")
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="End of the span.")] = None,
    model: Model = "tiny",
    strategy: Annotated[
        str | None,
        typer.Option(
            "--strategy",
            help="Which segments answer: compose (all, summed), route (the one that the question is"
            " about) or route-compose (the few that it is about, the default).",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 32,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show segments, tokens and time.")
    ] = False,
    allow_random: AllowRandom = False,
    as_json: Json = False,
) -> None:
    """Answer a question about a video from its adapters alone.

    Without a span the whole video may answer; with one, only the segments that it meets. Of many
    segments those answer that the question is about: see --strategy.
    """
    from flows.api import open_lake
    from flows.clock import parse_time_us
    from flows.console import show_answer

    opened = open_lake(lake, model=model, allow_random=allow_random)
    picked = opened.pick(
        video,
        start_s=parse_time_us(start) / 1e6 if start else None,
        end_s=parse_time_us(end) / 1e6 if end else None,
    )
    found = opened.answer_picked(question, picked, strategy=strategy, max_new_tokens=max_new_tokens)
    show_answer(found, picked, is_verbose=verbose, as_json=as_json)


@app.command(
    epilog=examples(
        "video2lora sql 'select * from coverage' --lake my-lake",
        "video2lora sql 'select reason, count(*) from rejects group by 1' --lake my-lake --csv",
        "video2lora sql 'from coverage' --lake my-lake --as-of 2026-11-20T08:00",
    )
)
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT statement, in quotes.")],
    lake: Lake,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of",
            help="The catalog as it was: a time (UTC), or TABLE=VERSION,TABLE=VERSION.",
            metavar="TIME|VERSIONS",
        ),
    ] = None,
) -> None:
    """Query the catalog: videos, segments, adapters, compositions, rejects, runs and more."""
    from flows.api import open_lake
    from flows.clock import parse_as_of
    from flows.console import show_table

    then = parse_as_of(as_of) if as_of else None
    show_table(open_lake(lake).sql(query, as_of=then), as_json=as_json, as_csv=as_csv)


@app.command(
    epilog=examples(
        "video2lora demo", "video2lora demo --video holiday.mp4 --question 'What is seen?'"
    )
)
def demo(
    out: Annotated[Path, typer.Option("--out", help="Where the demo's files go.")] = Path(
        "demo-lake"
    ),
    video: Annotated[
        Path | None, typer.Option("--video", help="Your own video, in place of generated ones.")
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", help="What to ask about your own video.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="prefect or local.")] = "prefect",
    model: Model = "tiny",
    num_videos: Annotated[int, typer.Option("--num-videos", help="Generated videos.", min=1)] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the generated videos.")] = 0,
) -> None:
    """Show the whole method on generated videos, or on a video of your own.

    Renders mp4 files that no training has seen, runs them through the flow, shows the catalog by
    SQL, and asks questions: from the adapters, with the video in context, and blind.
    """
    from flows.demo import DemoSettings, run_demo

    run_demo(
        DemoSettings(
            out=out,
            video=video,
            question=question,
            engine=engine,
            model=model,
            num_videos=num_videos,
            seed=seed,
        )
    )


def _one_line(error: Exception) -> str:
    from storage.errors import StorageError, without_secrets
    from video2lora_core.errors import Video2LoraError

    text = " ".join(without_secrets(str(error)).split())
    if isinstance(error, Video2LoraError | StorageError):
        return text
    return f"{type(error).__name__}: {text}; run again with --traceback to see where"


def _place(command: CommandInfo) -> int:
    """What a newcomer needs stands at the top of --help; the rest keeps its order."""
    name = command.callback.__name__ if command.callback else ""
    return FIRST.index(name) if name in FIRST else len(FIRST)


app.registered_commands.sort(key=_place)

if __name__ == "__main__":
    main()
