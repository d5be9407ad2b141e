"""The training flows through Prefect: what a deployment runs, and what `--engine prefect` calls.

The parameters are the config itself. A run that crashed is simply run again: states, targets and
log say where to go on.
"""

from pathlib import Path

from prefect import flow

from configs.train_corpus_schema import CorpusTrainConfig
from configs.train_schema import TrainConfig
from flows.prefect_engine import PrefectEngine
from flows.teacher_targets import ask_teacher
from flows.train_hypernetwork import train_hypernetwork
from tasks.teacher_targets import TeachSummary


@flow(name="train-hypernetwork", persist_result=False, validate_parameters=True)
def train_flow(
    config: CorpusTrainConfig | TrainConfig, out: str | None = None, resume: bool = True
) -> str:
    """Train what `config` describes; return the directory of the finished model."""
    directory = Path(out) if out else None
    return str(train_hypernetwork(config, PrefectEngine(), out=directory, resume=resume))


@flow(name="teacher-targets", persist_result=False, validate_parameters=True)
def teach_flow(config: CorpusTrainConfig, shard: int | None = None) -> list[TeachSummary]:
    """Ask the teacher about every example that has no answer, or about one shard's."""
    return ask_teacher(config, PrefectEngine(), shard=shard)
