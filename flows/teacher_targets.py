"""Ask the teacher, shard by shard: what is answered already is not asked again."""

from configs.train_corpus_schema import CorpusTrainConfig
from flows.engine import Engine
from tasks.teacher_targets import TeachSummary, teach


def ask_teacher(
    config: CorpusTrainConfig, engine: Engine, *, shard: int | None = None
) -> list[TeachSummary]:
    """Ask about every example without an answer, or about one shard's only.

    Nothing is asked where the teacher is asked during training.
    """
    if config.targets == "online":
        return []
    shards = range(config.teacher.shards) if shard is None else [shard]
    return [engine.step(teach, config, shard=number) for number in shards]
