"""The evaluation through Prefect: what a deployment runs, and what `--engine prefect` calls."""

from pathlib import Path

from prefect import flow

from configs.evaluate_schema import EvaluateConfig
from flows.evaluate import EvaluationSummary, evaluate
from flows.prefect_engine import PrefectEngine


@flow(name="evaluate", persist_result=False, validate_parameters=True)
def evaluate_flow(config: EvaluateConfig, out: str = "report.html") -> EvaluationSummary:
    """Measure modes side by side; write `evaluations` rows and the report."""
    return evaluate(config, PrefectEngine(), out=Path(out))
