"""The plan of a run: which sources are still to do, in which shard.

Sources are sorted by the sha256 of their URI and packed greedily into shards by cost, so the same
work gives the same plan, and hence the same run_id, on every machine. `generation` counts how often
the very same work was planned and published before: what was rejected for now can be tried again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ObjectError, reason_of
from storage.identity import run_id
from storage.manifest import Source
from storage.object_store import ObjectStore

PLAN_SCHEMA: Final = pa.schema(
    [
        pa.field("recipe_id", pa.string(), nullable=False),
        pa.field("generation", pa.int32(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("version_token", pa.string()),
        pa.field("given_id", pa.string()),
        pa.field("metadata", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSource:
    """A source still to do, and what it will cost."""

    source: Source
    cost: float
    """Any additive measure, the same for all sources of a plan: seconds of video, or bytes."""


def make_plan(
    planned: Iterable[PlannedSource], *, recipe_id: str, shard_cost: float, generation: int = 0
) -> pa.Table:
    """Return the plan of what is still to do; a source that is listed twice is planned once.

    Args:
        planned: What is still to do, in any order.
        recipe_id: The recipe to do it by.
        shard_cost: A shard is full when its costs reach this.
        generation: How often the same plan was published before.
    """
    if shard_cost <= 0:
        raise ValueError(f"make_plan: shard_cost is {shard_cost}; give a cost above 0")
    once = {item.source.source_id: item for item in planned}
    rows = []
    shard, filled = 0, 0.0
    for key, item in sorted(once.items()):
        if filled >= shard_cost:
            shard, filled = shard + 1, 0.0
        filled += max(item.cost, 0.0)
        rows.append(_plan_row(key, item.source, recipe_id, generation, shard))
    return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


def plan_sources(plan: pa.Table, shard: int) -> list[Source]:
    """Return the sources of one shard, in plan order."""
    names = ["uri", "size_bytes", "version_token", "given_id", "metadata"]
    rows = plan.filter(pa.compute.field("shard") == shard).select(names)
    return [Source(**row) for row in rows.to_pylist()]


def put_plan(objects: ObjectStore, run_id: str, plan: pa.Table) -> bool:
    """Store a plan under its run_id; False where it is there already."""
    sink = pa.BufferOutputStream()
    pq.write_table(plan, sink)
    return objects.create(f"plans/{run_id}.parquet", sink.getvalue().to_pybytes())


def get_plan(objects: ObjectStore, run_id: str) -> pa.Table:
    """Return a stored plan, checked against its run_id.

    Raises:
        ObjectMissingError: the lake holds no such plan.
        ObjectError: the file is damaged.
    """
    name = f"plans/{run_id}.parquet"
    data = objects.read(name)
    try:
        plan = pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise ObjectError(
            f"{objects.uri(name)}: not a plan ({reason_of(error)}); plan anew"
        ) from error
    check_plan(objects.uri(name), plan, run_id)
    return plan


def check_plan(where: str, plan: pa.Table, expected: str) -> None:
    """Raise ObjectError where a plan's rows do not have the run_id it is stored under."""
    found = run_id(plan)
    if found != expected:
        raise ObjectError(
            f"{where}: the plan has changed (run_id {found[:12]}, expected {expected[:12]}); "
            "plan the run anew"
        )


def _plan_row(
    key: str, source: Source, recipe_id: str, generation: int, shard: int
) -> Mapping[str, object]:
    return {
        "recipe_id": recipe_id,
        "generation": generation,
        "shard": shard,
        "source_id": key,
        "uri": source.uri,
        "size_bytes": source.size_bytes,
        "version_token": source.version_token,
        "given_id": source.given_id,
        "metadata": source.metadata,
    }
