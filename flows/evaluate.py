"""Run an evaluation: prepare, internalize, answer, measure part by part, write the report."""

from dataclasses import dataclass
from pathlib import Path

from configs.evaluate_schema import EvaluateConfig
from flows import prefect_settings
from flows.engine import Engine
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.manifest import refuse_credentials
from tasks.evaluate import (
    measure_part,
    measured_parts,
    name_evaluation,
    prepare,
    write_figures,
    write_report,
)
from tasks.evaluate_parts import PartSummary, internalize_config


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationSummary:
    """What an evaluation did."""

    evaluation_id: str
    recipe_id: str
    parts: tuple[PartSummary, ...]
    num_rows: int
    """Rows of `evaluations` that are new: 0 where all was measured before."""
    verdicts: tuple[str, ...]
    """One line per judged metric, over all question types."""
    report: str
    """Where the report is."""


def evaluate(config: EvaluateConfig, engine: Engine, *, out: Path) -> EvaluationSummary:
    """Measure what the config asks for and was not measured yet; write rows and report."""
    given = engine.step(prepare, config)
    if given.corpus is not None:
        internalize_corpus(internalize_config(config, corpus=given.corpus), engine)
    evaluation = engine.step(name_evaluation, config, given)
    parts = [engine.step(measure_part, config, evaluation, part) for part in measured_parts(config)]
    num_rows = engine.step(write_figures, config, evaluation)
    written = engine.step(write_report, config, evaluation, out=out)
    return EvaluationSummary(
        evaluation_id=evaluation.evaluation_id,
        recipe_id=evaluation.recipe_id,
        parts=tuple(parts),
        num_rows=num_rows,
        verdicts=written.verdicts,
        report=written.path,
    )


def run_evaluate(config: EvaluateConfig, *, out: Path) -> EvaluationSummary:
    """Choose an engine and evaluate; Prefect is imported only where its engine is chosen."""
    # Before an engine sees them: Prefect stores the parameters of its runs.
    for uri in (config.lake, config.corpus, config.questions):
        refuse_credentials(uri or "")
    engine = config.engine
    if engine == "auto":
        engine = "prefect" if prefect_settings.is_api_configured() else "local"
    if engine == "local":
        return evaluate(config, LocalEngine(), out=out)
    prefect_settings.apply()
    from flows.prefect_evaluate import evaluate_flow

    return evaluate_flow(config, out=str(out))
