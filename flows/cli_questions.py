"""Commands that answer many questions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_app import AllowRandom, Json, app, examples

Questions = Annotated[
    str | None,
    typer.Argument(
        help="A file (.parquet, .jsonl, .csv) with columns video and question, or a SELECT"
        " over the catalog that gives them."
    ),
]
AnyLake = Annotated[
    str | None,
    typer.Option("--lake", help="The lake: a directory or s3://bucket/prefix.", metavar="URI"),
]
AnswerMode = Annotated[
    str | None,
    typer.Option("--mode", help="adapter, in-context, in-context-kv-cache or blind."),
]
Strategy = Annotated[
    str | None,
    typer.Option("--strategy", help="Which segments answer: compose, route, route-compose."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Also write the answers here: .parquet, .jsonl or .csv."),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="An answer config (YAML); flags win over it.")
]
AnyModel = Annotated[
    str | None, typer.Option("--model", help="A name of configs/models, or a path.")
]
AnyEngine = Annotated[
    str | None, typer.Option("--engine", help="local, prefect or auto, as for internalize.")
]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer.", min=1)]
Missing = Annotated[
    bool, typer.Option("--internalize-missing", help="First make the adapters that are missing.")
]
Again = Annotated[bool, typer.Option("--again", help="Ask questions again that have an answer.")]


@app.command(
    epilog=examples(
        "video2lora answer questions.jsonl --lake my-lake --out answers.jsonl",
        "video2lora answer s3://team/questions.parquet --lake s3://team/lake --mode in-context",
        "video2lora answer \"select video_id as video, 'What happens?' as question from videos\" "
        "--lake my-lake",
    )
)
def answer(
    questions: Questions = None,
    lake: AnyLake = None,
    mode: AnswerMode = None,
    strategy: Strategy = None,
    out: Out = None,
    config: ConfigFile = None,
    model: AnyModel = None,
    engine: AnyEngine = None,
    max_new_tokens: MaxTokens = None,
    internalize_missing: Missing = False,
    again: Again = False,
    allow_random: AllowRandom = False,
    as_json: Json = False,
) -> None:
    """Answer a set of questions about the lake's videos, each exactly once.

    Questions that the lake has an answer to are not asked again. A question that cannot be
    answered becomes a row of the `rejects` table, and the rest goes on.
    """
    from configs.load import load_answer_config
    from flows.answer_questions import run_answers
    from flows.show_answers import show_answers, showing_questions
    from storage.lake import open_lake
    from tasks.answer_results import require_writable, write_answers

    overrides: dict[str, Any] = {
        "questions": questions,
        "lake": lake,
        "mode": mode,
        "strategy": strategy,
        "model": model,
        "engine": engine,
        "max_new_tokens": max_new_tokens,
        "internalize_missing": internalize_missing or None,
        "again": again or None,
        "allow_random": allow_random or None,
    }
    settings = load_answer_config(config, overrides)
    if out is not None:
        require_writable(out)
    with showing_questions():
        summary = run_answers(settings)
    if out is not None:
        write_answers(open_lake(settings.lake), summary.plan.run_id, out)
    show_answers(summary, lake=settings.lake, out=out, as_json=as_json)
