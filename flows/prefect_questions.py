"""The flow of answers through Prefect: what a deployment runs, and `--engine prefect` calls."""

from prefect import flow

from configs.answer_schema import AnswerConfig
from flows.answer_questions import answer_questions
from flows.prefect_engine import PrefectEngine
from tasks.answer_summary import AnswerSummary


@flow(name="answer-questions", persist_result=False, validate_parameters=True)
def answer_questions_flow(config: AnswerConfig) -> AnswerSummary:
    """Answer every question of a set that has no answer in the lake yet."""
    return answer_questions(config, PrefectEngine())
