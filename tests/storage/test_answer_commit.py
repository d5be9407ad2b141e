"""Whatever dies when, a question ends as one answer or one reject."""

import threading
from collections.abc import Collection, Sequence
from typing import Any

import pytest

from storage.answer_commit import answered_ids, commit_answers
from storage.catalog import Catalog
from storage.errors import UnitOrderError
from storage.lake import Lake
from tests.storage.test_commit import DiedError, MortalCatalog

QUESTIONS = ("q0", "q1", "q2")
COMMON = {"recipe_id": "r", "attempt_id": "a", "worker": "w", "mode": "adapter"}


def answer(question_id: str, *, text: str = "red") -> dict[str, Any]:
    return {
        "answer_id": f"id of {question_id}",
        "question_id": question_id,
        "question": "What?",
        "answer": text,
        "model_name": "tiny",
        "model_weights_sha256": "w",
        "num_prompt_tokens": 3,
        "num_visual_tokens": 0,
        "num_new_tokens": 1,
    }


def commit(catalog: Catalog, answered: Collection[str], *, unit: int = 0, text: str = "red") -> str:
    """Commit a unit of the three questions, of which this attempt answered some."""

    def rejects(committed: Collection[str]) -> Sequence[dict[str, Any]]:
        why = {"reason": "DEVICE_OOM", "attempt": 1, "is_terminal": False}
        return [{"question_id": q, **why} for q in QUESTIONS if q not in committed]

    return commit_answers(
        catalog,
        run_id="run",
        shard=0,
        unit=unit,
        answers=[answer(q, text=text) for q in answered],
        rejects=rejects,
        common=COMMON,
    )


def check(lake: Lake) -> None:
    answered = lake.table("answers")["question_id"].to_pylist()
    rejected = lake.table("rejects")["question_id"].to_pylist()
    assert sorted(answered + rejected) == list(QUESTIONS)
    assert lake.table("runs")["event"].to_pylist() == ["answered"]


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_an_attempt_that_dies_at_any_table_is_completed_by_the_next(
    lake: Lake, dies_at: int, is_after: bool
) -> None:
    mortal = MortalCatalog(f"{lake.uri}/catalog", dies_at=dies_at, is_after=is_after)
    with pytest.raises(DiedError):
        commit(mortal, ["q0", "q1"], text="first")
    is_closed = dies_at == 3 and is_after
    # The second attempt answers what the first could not, and fails at another question.
    done = commit(lake.catalog, ["q1", "q2"], text="second")
    assert done == ("already" if is_closed else "committed")
    check(lake)
    is_first = (dies_at, is_after) != (1, False)
    assert set(lake.table("answers")["answer"].to_pylist()) == {"first" if is_first else "second"}


def test_a_unit_without_any_answer_stays_so(lake: Lake) -> None:
    mortal = MortalCatalog(f"{lake.uri}/catalog", dies_at=1, is_after=True)
    with pytest.raises(DiedError):
        commit(mortal, [])
    commit(lake.catalog, QUESTIONS)
    check(lake)
    assert lake.table("answers").num_rows == 0


def test_two_workers_on_the_same_units_leave_each_question_once(lake: Lake) -> None:
    def work(answered: Sequence[str]) -> None:
        catalog = Catalog(f"{lake.uri}/catalog")
        outcomes.extend(commit(catalog, answered, unit=unit) for unit in range(4))

    outcomes: list[str] = []
    workers = [threading.Thread(target=work, args=(a,)) for a in (["q0", "q1"], ["q1", "q2"])]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(outcomes) == 8
    for unit in range(4):
        place = f"from raw.{{}} where unit = {unit} order by question_id"
        ids = [
            row["question_id"]
            for table in ("answers", "rejects")
            for row in lake.query(f"select question_id {place.format(table)}").to_pylist()
        ]
        assert sorted(ids) == list(QUESTIONS)
    assert lake.query("select * from raw.runs").num_rows == 4


def test_units_commit_in_order(lake: Lake) -> None:
    with pytest.raises(UnitOrderError, match="unit 0 comes first"):
        commit(lake.catalog, [], unit=1)
    assert commit(lake.catalog, ["q0"]) == "committed"
    assert commit(lake.catalog, ["q0"]) == "already"


def test_what_is_answered_is_found_by_its_id(lake: Lake) -> None:
    commit(lake.catalog, ["q0"])
    ids = ["id of q0", "id of q1"]
    assert answered_ids(lake.catalog, ids) == {"id of q0"}
    assert answered_ids(lake.catalog, ids, run_id="other") == set()
    assert answered_ids(lake.catalog, []) == set()


def test_a_reject_of_a_question_is_no_open_reject_of_a_video(lake: Lake) -> None:
    commit(lake.catalog, ["q0"])
    assert lake.query("select * from open_rejects").num_rows == 0
    found = lake.query("select question_id, mode from question_rejects order by 1").to_pylist()
    assert [tuple(row.values()) for row in found] == [("q1", "adapter"), ("q2", "adapter")]
