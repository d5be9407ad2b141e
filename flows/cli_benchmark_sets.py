"""Commands that turn public benchmarks into question sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_app import Json, app, examples

if TYPE_CHECKING:
    from tasks.benchmark_sets import BadRow

SHOWN_BAD_ROWS = 10


@app.command(
    name="question-set",
    epilog=examples(
        "video2lora question-set next-qa-oe val.csv --out next-qa.jsonl",
        "video2lora question-set activitynet-qa val_q.json --videos videos/ --out anet.jsonl",
    ),
)
def question_set(
    benchmark: Annotated[
        str,
        typer.Argument(
            help="activitynet-captions, plm-rdcap, plm-rcap, plm-sgqa, vdc, carebench, next-qa-oe,"
            " next-qa-mc, activitynet-qa or vidcapbench."
        ),
    ],
    annotations: Annotated[Path, typer.Argument(help="The benchmark's own annotation file.")],
    out: Annotated[Path, typer.Option("--out", help="The question set to write (.jsonl).")],
    videos: Annotated[
        Path | None,
        typer.Option(
            "--videos", help="Directory of its videos: questions name files, missing ones are told."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a benchmark's annotations as a question set.

    Rows that are no question are told with their line and left out.
    """
    from tasks.benchmark_sets import read_benchmark, write_question_set
    from video2lora_core.errors import UsageError

    questions, bad_rows = read_benchmark(benchmark, annotations, videos)
    if not questions:
        first = f"; the first: line {bad_rows[0].line}: {bad_rows[0].reason}" if bad_rows else ""
        raise UsageError(
            f"{annotations}: no question of {benchmark} in it ({len(bad_rows)} bad rows{first});"
            " check file, benchmark and --videos"
        )
    num_questions = write_question_set(questions, out)
    num_videos = len({question.video for question in questions})
    _show(bad_rows, num_questions=num_questions, num_videos=num_videos, out=out, as_json=as_json)


def _show(
    bad_rows: "list[BadRow]", *, num_questions: int, num_videos: int, out: Path, as_json: bool
) -> None:
    import json
    from dataclasses import asdict

    if as_json:
        rows = [asdict(row) for row in bad_rows]
        counts = {"num_questions": num_questions, "num_videos": num_videos}
        typer.echo(json.dumps({"out": str(out), **counts, "bad_rows": rows}))
        return
    typer.echo(f"{out}: {num_questions} questions about {num_videos} videos")
    for row in bad_rows[:SHOWN_BAD_ROWS]:
        typer.echo(f"left out: line {row.line}: {row.reason}", err=True)
    if len(bad_rows) > SHOWN_BAD_ROWS:
        typer.echo(f"left out: {len(bad_rows) - SHOWN_BAD_ROWS} more (all with --json)", err=True)
