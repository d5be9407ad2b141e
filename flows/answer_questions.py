"""A question set to answers: internalize what is missing where asked, plan, shards, count."""

import json
import tempfile
import uuid
from pathlib import Path

from configs.answer_schema import AnswerConfig
from flows.engine import Engine
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.manifest import refuse_credentials
from tasks.answer_recipe import internalize_config
from tasks.answer_results import close_answers
from tasks.answer_set import answer_shard
from tasks.answer_summary import AnswerShardSummary, AnswerSummary
from tasks.plan_answers import missing_videos, plan_answers
from tasks.question_files import is_select


def answer_questions(config: AnswerConfig, engine: Engine) -> AnswerSummary:
    """Answer every question of a set that has no answer in the lake yet."""
    attempt_id = uuid.uuid4().hex
    num_internalized = _internalize_missing(config, engine) if config.internalize_missing else 0
    plan = engine.step(plan_answers, config, attempt_id=attempt_id)
    done = AnswerShardSummary()
    for shard in range(plan.num_shards):
        done += engine.step(
            answer_shard, config, run_id=plan.run_id, shard=shard, attempt_id=attempt_id
        )
    found = engine.step(close_answers, config, run_id=plan.run_id, attempt_id=attempt_id)
    return AnswerSummary(
        plan=plan,
        shards=done,
        found=found,
        engine=engine.name,
        num_internalized=num_internalized,
    )


def run_answers(config: AnswerConfig) -> AnswerSummary:
    """Answer a question set; Prefect is imported only where its engine is chosen."""
    from flows import prefect_settings

    # Before an engine sees them: Prefect stores the parameters of its runs.
    if not is_select(config.questions):
        refuse_credentials(config.questions)
    refuse_credentials(config.lake)
    engine = config.engine
    if engine == "auto":
        engine = "prefect" if prefect_settings.is_api_configured() else "local"
    if engine == "local":
        return answer_questions(config, LocalEngine())
    prefect_settings.apply()
    from flows.prefect_questions import answer_questions_flow

    return answer_questions_flow(config)


def _internalize_missing(config: AnswerConfig, engine: Engine) -> int:
    """Make adapters of exactly the videos that are asked about and lack them."""
    uris = engine.step(missing_videos, config)
    if not uris:
        return 0
    with tempfile.TemporaryDirectory(prefix="video2lora-") as folder:
        manifest = Path(folder) / "missing.jsonl"
        lines = (json.dumps({"uri": uri}) + "\n" for uri in uris)
        manifest.write_text("".join(lines), encoding="utf-8")
        internalize_corpus(internalize_config(config, str(manifest)), engine)
    return len(uris)
