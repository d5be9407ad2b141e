"""A plan of questions loses none and does not depend on the order they were read in."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.answer_plans import (
    QUESTION_SCHEMA,
    AnswerHeader,
    AnswerPlan,
    get_answer_plan,
    put_answer_plan,
    shard_hashes,
    sort_questions,
)
from storage.errors import ObjectError, ObjectMissingError
from storage.object_store import LocalObjectStore

QUESTIONS = st.lists(
    st.fixed_dictionaries(
        {
            "question_id": st.sampled_from("abcdefgh"),
            "video_id": st.none() | st.sampled_from("vwx"),
            "question": st.sampled_from(["who", "where"]),
            "start_us": st.none() | st.integers(0, 3),
            "references": st.sampled_from(['["red"]', "[]"]),
            "metadata": st.none() | st.sampled_from(['{"n":1}', '{"n":2}']),
            "answer_id": st.uuids().map(str),
        }
    ),
    min_size=1,
    max_size=20,
)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA)


def plan(root: Path, rows: list[dict[str, Any]], **changed: Any) -> AnswerPlan:
    questions = sort_questions(table(rows))
    values: dict[str, Any] = {
        "settings": {"mode": "adapter"},
        "question_set": "set",
        "generation": 0,
        "is_again": False,
        "num_questions": questions.num_rows,
        "unit_questions": 2,
        "shard_questions": 6,
        "shards": shard_hashes(questions, 6),
    }
    return put_answer_plan(LocalObjectStore(root), AnswerHeader(**{**values, **changed}), questions)


@settings(max_examples=25)
@given(rows=QUESTIONS, seed=st.integers(0, 99))
def test_every_question_is_in_one_unit_whatever_the_order(
    rows: list[dict[str, Any]], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("plan")
    for row in rows:  # what a question is answered by follows from the question
        row["answer_id"] = f"{row['question_id']}/{row['question']}/{row['video_id']}"
    made = plan(root, rows)
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert plan(root, shuffled).run_id == made.run_id
    units = [unit for n in range(len(made.header.shards)) for unit in made.units(n)]
    assert {len(unit) for unit in units[:-1]} <= {2}
    planned = [row for unit in units for row in unit]
    assert planned == list(made.questions())
    assert set(Counter(row["question_id"] for row in planned).values()) == {1}
    content = [(row["question"], row["video_id"], row["metadata"]) for row in planned]
    assert Counter(content) == Counter((r["question"], r["video_id"], r["metadata"]) for r in rows)
    twice = len(rows) - len({row["question_id"] for row in rows})
    assert sum(row["reason"] == "QUESTION_INVALID" for row in planned) == twice
    assert all((row["answer_id"] is None) == (row["reason"] is not None) for row in planned)


def row(number: int) -> dict[str, Any]:
    return {"question_id": f"q{number}", "question": "what", "answer_id": f"a{number}"}


@pytest.mark.parametrize(
    "changed",
    [
        {"settings": {"mode": "blind"}},
        {"question_set": "other"},
        {"generation": 1},
        {"is_again": True},
        {"unit_questions": 3},
    ],
)
def test_whatever_decides_a_plan_is_in_its_run_id(tmp_path: Path, changed: dict[str, Any]) -> None:
    rows = [row(n) for n in range(8)]
    assert plan(tmp_path, rows, **changed).run_id != plan(tmp_path, rows).run_id
    assert plan(tmp_path, rows[:7]).run_id != plan(tmp_path, rows).run_id


def test_the_place_of_a_bad_row_in_its_file_is_no_part_of_a_plan(tmp_path: Path) -> None:
    bad = {"question_id": "x", "reason": "QUESTION_INVALID", "is_terminal": True}
    plans = [plan(tmp_path, [{**bad, "detail": f"row {n}"}]) for n in (1, 2)]
    assert plans[0].run_id == plans[1].run_id


def test_a_stored_plan_reads_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    made = plan(tmp_path, [row(n) for n in range(8)])
    objects = LocalObjectStore(tmp_path)
    found = get_answer_plan(objects, made.run_id)
    assert (found.header, found.shard(1)) == (made.header, made.shard(1))
    path = tmp_path / "questions" / f"{made.run_id}.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ObjectError, match="ask the questions anew"):
        get_answer_plan(objects, made.run_id)
    with pytest.raises(ObjectMissingError):
        get_answer_plan(objects, "0" * 64)


def test_rows_that_were_exchanged_are_noticed(tmp_path: Path) -> None:
    made, other = (plan(tmp_path, [row(n) for n in numbers]) for numbers in (range(8), range(9)))
    folder = tmp_path / "questions"
    (folder / f"{made.run_id}.parquet").unlink()
    (folder / f"{other.run_id}.parquet").rename(folder / f"{made.run_id}.parquet")
    with pytest.raises(ObjectError, match="the plan has changed"):
        get_answer_plan(LocalObjectStore(tmp_path), made.run_id)
    with pytest.raises(ObjectError, match="shard 1 has changed"):
        made.shard(1)
