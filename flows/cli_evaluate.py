"""Commands that measure answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_app import Json, app, examples

if TYPE_CHECKING:
    from flows.evaluate import EvaluationSummary


@app.command(
    epilog=examples(
        "video2lora evaluate --config configs/evaluate/tiny.yaml",
        "video2lora evaluate --config mine.yaml --lake s3://team/lake --out report.html",
    )
)
def evaluate(
    config: Annotated[Path, typer.Option("--config", help="An evaluation config (YAML).")],
    lake: Annotated[
        str | None,
        typer.Option("--lake", help="The lake, in place of the config's.", metavar="URI"),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", help="Where the HTML report goes, one file.")
    ] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """Ask the same questions in every mode, and report how right and how costly the answers are.

    Each part is measured once: run again, the figures are found in the lake and only the report is
    written anew. Every figure is a row of the table `evaluations`.
    """
    from configs.evaluate_schema import EvaluateConfig
    from configs.load import load_config
    from flows.console import showing_progress
    from flows.evaluate import run_evaluate

    settings = load_config(config, EvaluateConfig)
    if lake is not None:
        settings = settings.model_copy(update={"lake": lake})
    with showing_progress():
        summary = run_evaluate(settings, out=out)
    _show(summary, lake=settings.lake, as_json=as_json)


def _show(summary: "EvaluationSummary", *, lake: str, as_json: bool) -> None:
    import dataclasses
    import json

    from flows.console import make_console, make_table

    if as_json:
        typer.echo(json.dumps({"lake": lake, **dataclasses.asdict(summary)}))
        return
    console = make_console()
    rows = [
        [part.part, part.num_figures, round(part.seconds, 1), "now" if part.is_new else "before"]
        for part in summary.parts
    ]
    console.print(make_table(["part", "figures", "seconds", "measured"], rows))
    for line in summary.verdicts:
        console.print(line, markup=False)
    console.print(f"report   {summary.report}", markup=False)
    console.print(
        f'figures  video2lora sql "select * from evaluations where evaluation_id = '
        f"'{summary.evaluation_id}'\" --lake {lake}",
        markup=False,
    )
