"""What a question set still lacks: which answers are in the catalog, which rejects are final."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from storage.answer_commit import answered_ids
from storage.lake import Lake
from storage.schemas import Row


def is_settled(lake: Lake, questions: pa.Table, run_ids: Sequence[str]) -> bool:
    """Say whether every question of a plan is answered, or was rejected for good by its runs."""
    wanted = questions["answer_id"].drop_null().to_pylist()
    answered = answered_ids(lake.catalog, wanted)
    left = questions.filter(pc.invert(pc.is_in(questions["answer_id"], _texts(answered))))
    return set(left["question_id"].to_pylist()) <= final_rejects(lake, run_ids)


def final_rejects(lake: Lake, run_ids: Sequence[str]) -> set[str]:
    """Return the ids of the questions that these runs rejected and that no run need try again."""
    rows = rejects_of(lake, run_ids, columns=("question_id", "is_terminal"))
    return {row["question_id"] for row in rows if row["is_terminal"]}


def rejects_of(
    lake: Lake, run_ids: Sequence[str], *, columns: Sequence[str] | None = None
) -> list[Row]:
    """Return the rejects of runs of answers."""
    where = pc.field("run_id").isin(_texts(run_ids)) & pc.field("question_id").is_valid()
    rows: list[Row] = lake.catalog.read("rejects", columns=columns, where=where).to_pylist()
    return rows


def _texts(values: object) -> pa.Array:
    return pa.array(sorted(set(values)), pa.string())  # type: ignore[call-overload]
