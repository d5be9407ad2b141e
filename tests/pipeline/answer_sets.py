"""Question sets for the tests of answering, and the flow that answers them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.answer_schema import AnswerConfig
from flows.answer_questions import answer_questions
from flows.local_engine import LocalEngine
from storage.lake import Lake
from tasks.answer_summary import AnswerSummary

Ask = Callable[..., AnswerSummary]

QUESTIONS: Sequence[Mapping[str, Any]] = (
    *({"video": "long.mp4", "question": f"How many are there of {i}?"} for i in range(4)),
    {"video": "long.mp4", "question": "What is seen?", "start": 5, "end": 7},
    {"video": "long.mp4", "question": "What is seen then?", "start": "0:08"},
    *({"video": "short.mp4", "question": f"What? {'Tell me. ' * i}"} for i in range(3)),
    {"video": "short.mp4", "question": "Which colour?", "reference": "red", "question_type": "c"},
)
NUM_QUESTIONS = len(QUESTIONS)


def write_set(path: Path, rows: Sequence[Mapping[str, Any]] = QUESTIONS) -> Path:
    """Write a question set whose ids are its rows' numbers."""
    lines = [json.dumps({"question_id": f"q{n:03d}", **row}) for n, row in enumerate(rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def answer_config(
    questions: Path | str, lake: Path | str, model: str, **changed: Any
) -> AnswerConfig:
    """Return a config of small batches and units, without decoding children."""
    values: dict[str, Any] = {
        "questions": str(questions),
        "lake": str(lake),
        "model": model,
        "max_new_tokens": 4,
        "batch_questions": 3,
        "unit_questions": 4,
        "shard_units": 2,
        "decode": {"workers": 0},
    }
    return AnswerConfig(**{**values, **changed})


def ask_set(questions: Path | str, lake: Path | str, model: str, **changed: Any) -> AnswerSummary:
    """Answer a set with the local engine."""
    return answer_questions(answer_config(questions, lake, model, **changed), LocalEngine())


def texts(lake: Lake, mode: str = "adapter") -> dict[str, str]:
    """Return the answers of a mode by question id, each of which must be there once."""
    rows = lake.query(f"select question_id, answer from raw.answers where mode = '{mode}'")
    found = {row["question_id"]: row["answer"] for row in rows.to_pylist()}
    assert len(found) == rows.num_rows
    return found


def check_exactly_once(lake: Lake, *, num_questions: int) -> None:
    """Every question of the one run is one row of answers or of rejects."""
    rows = lake.query(
        "select question_id, count(*) as n from (select question_id from raw.answers union all "
        "select question_id from raw.rejects where question_id is not null) group by 1"
    ).to_pylist()
    assert len(rows) == num_questions
    assert {row["n"] for row in rows} == {1}
