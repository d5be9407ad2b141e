"""The commit of a unit of answers: answers first, then rejects, the closing row last.

Every table takes one append with the transaction (`<run_id>:<shard>`, unit number). The first
append of the answers decides which questions of the unit are answered, also that none is; a later
attempt builds the rejects from what stands in the table and not from what it computed itself. So
whoever dies when, and however many work on the unit at once, a question ends as one row of one
of both tables.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.catalog import Catalog
from storage.commit import Outcome
from storage.errors import UnitOrderError
from storage.schemas import Row, table_schema

ANSWERED: Final = "answered"

RejectsOf = Callable[[Collection[str]], Sequence[Row]]


def commit_answers(
    catalog: Catalog,
    *,
    run_id: str,
    shard: int,
    unit: int,
    answers: Sequence[Row],
    rejects: RejectsOf,
    common: Row,
) -> Outcome:
    """Commit one unit of answers, each table exactly once.

    Args:
        catalog: where to.
        run_id: the run.
        shard: the shard.
        unit: its number; units commit in order.
        answers: the rows that this attempt made.
        rejects: given the question ids that the unit really answered, the other rows.
        common: columns of every row.

    Returns:
        "already" where the unit was closed before, by this process or another.

    Raises:
        UnitOrderError: an elder unit of the shard is not committed.
    """
    transaction = (f"{run_id}:{shard}", unit)
    closed = catalog.committed("runs", transaction[0])
    if closed >= unit:
        return "already"
    if unit != closed + 1:
        raise UnitOrderError(
            f"unit {unit} of shard {shard} of run {run_id[:12]}: unit {closed + 1} comes first; "
            "commit units in plan order"
        )
    common = {**common, "run_id": run_id, "shard": shard, "unit": unit}
    own = _filled("answers", answers, common)
    # Appended even when empty: the first attempt to get here decides, also that there are none.
    if catalog.append("answers", own, transaction=transaction):
        answered = {row["question_id"] for row in own}
    else:
        answered = _committed(catalog, common)
    rejected = _filled("rejects", rejects(answered), common)
    if rejected:
        catalog.append("rejects", rejected, transaction=transaction)
    closing = {"event": ANSWERED, "num_rejects": len(rejected)}
    is_ours = catalog.append("runs", _filled("runs", [closing], common), transaction=transaction)
    return "committed" if is_ours else "already"


def answered_ids(
    catalog: Catalog, answer_ids: Collection[str], *, run_id: str | None = None
) -> set[str]:
    """Return which of these answers are in the catalog; `run_id` asks for those of one run."""
    where = pc.field("answer_id").isin(pa.array(sorted(set(answer_ids)), pa.string()))
    if run_id is not None:
        where = where & (pc.field("run_id") == run_id)
    rows = catalog.read("answers", columns=["answer_id"], where=where)
    return set(rows["answer_id"].to_pylist())


def _committed(catalog: Catalog, place: Row) -> set[str]:
    here: pc.Expression = pc.field("run_id") == place["run_id"]
    here = here & (pc.field("shard") == place["shard"]) & (pc.field("unit") == place["unit"])
    rows = catalog.read("answers", columns=["question_id"], where=here)
    return set(rows["question_id"].to_pylist())


def _filled(table: str, rows: Sequence[Row], common: Row) -> list[Row]:
    names = set(table_schema(table).names)
    shared: dict[str, Any] = {name: value for name, value in common.items() if name in names}
    return [{**shared, **row} for row in rows]
