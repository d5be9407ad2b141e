"""Train: ask the teacher where its answers are wanted, then run the training itself.

Both kinds of training config go through here, with either engine. Processes that were started
together (`accelerate launch`, `torchrun`) find the teacher's answers in the lake: asking it is not
theirs to repeat.
"""

import os
from pathlib import Path

from configs.train_corpus_schema import CorpusTrainConfig
from configs.train_schema import TrainConfig
from flows.engine import Engine
from flows.teacher_targets import ask_teacher
from tasks.train import train_embedded
from tasks.train_corpus import train_corpus
from video2lora_core.training.loop import Report


def train_hypernetwork(
    config: TrainConfig | CorpusTrainConfig,
    engine: Engine,
    *,
    out: Path | None = None,
    resume: bool = True,
    report: Report | None = None,
) -> Path:
    """Train what `config` describes; return the directory of the finished model."""
    if isinstance(config, TrainConfig):
        return engine.step(train_embedded, config, out=out, resume=resume, report=report)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        ask_teacher(config, engine)
    return engine.step(train_corpus, config, out=out, resume=resume, report=report)
