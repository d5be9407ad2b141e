"""The plan of a run: which sources are still to do, in which shard.

Sources come sorted by the sha256 of their URI and are packed greedily into shards by cost, so the
same work gives the same plan, and hence the same run_id, on every machine. `generation` counts how
often the very same work was planned and published before: what was rejected for now can be tried
again.

A plan is written and read as a stream. Its Parquet file is made of blocks of 1,024 rows; the header
in its footer holds the sha256 of each block, and the run_id is the sha256 of that header. So one
shard of any plan is read, and checked, without reading the others.
"""

import itertools
import json
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.errors import ObjectError, reason_of
from storage.identity import canonical_json, sha256_hex
from storage.manifest import Source
from storage.object_store import ObjectStore

T = TypeVar("T")

PLAN_SCHEMA: Final = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("version_token", pa.string()),
        pa.field("given_id", pa.string()),
        pa.field("metadata", pa.string()),
        pa.field("corpus", pa.string()),
    ]
)
_FORMAT: Final = 1
_BLOCK_ROWS: Final = 1024
_HEADER: Final = b"video2lora.plan"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSource:
    """A source still to do, and what it will cost."""

    source: Source
    cost: float
    """Any additive measure, the same for all sources of a plan: seconds of video, or bytes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Retry:
    """That a run tries again what other runs rejected."""

    reasons: tuple[str, ...] = ()
    """Reasons whose rejects are tried again although they are terminal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanHeader:
    """What a plan says about itself; its canonical JSON hashes to the run_id."""

    recipe_id: str
    generation: int
    retry: Retry | None
    """None for an ordinary run: what is rejected for good stays rejected."""
    num_sources: int
    num_shards: int
    blocks: tuple[str, ...]
    """The sha256 of each block of rows."""
    unit_segments: int | None = None
    """Segments of a unit: units are numbered, so every attempt must cut them alike; None in plans
    that were made before this stood in them."""

    @property
    def text(self) -> str:
        """The canonical JSON."""
        return canonical_json({"format": _FORMAT, **asdict(self)})

    @property
    def run_id(self) -> str:
        """The sha256 of the header, and through it of every row."""
        return sha256_hex(self.text.encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredPlan:
    """A plan in a lake: its header is read, its rows are not."""

    run_id: str
    header: PlanHeader
    objects: ObjectStore

    def sources(self, shard: int) -> list[Source]:
        """Return the sources of one shard, in plan order, reading only the blocks that hold it.

        Raises:
            ObjectError: the file is damaged.
        """
        where = self.objects.uri(_name(self.run_id))
        with self.objects.open(_name(self.run_id)) as file, _reading(where):
            table = pq.ParquetFile(file)
            rows: list[dict[str, Any]] = []
            for number in _blocks_of(table.metadata, shard):
                block = table.read_row_group(number).select(PLAN_SCHEMA.names)
                if _block_sha256(block) != self.header.blocks[number]:
                    raise ObjectError(_changed(where, f"block {number} has another sha256"))
                rows += block.filter(pc.field("shard") == shard).to_pylist()
        return [Source(**{k: v for k, v in row.items() if k != "shard"}) for row in rows]

    def shard_sizes(self) -> dict[int, int]:
        """Return how many sources each shard has; only that column of the file is read.

        Raises:
            ObjectError: the file is damaged.
        """
        where = self.objects.uri(_name(self.run_id))
        with self.objects.open(_name(self.run_id)) as file, _reading(where):
            shards = pq.ParquetFile(file).read(columns=["shard"])["shard"].value_counts()
        return {row["values"]: row["counts"] for row in shards.to_pylist()}


def pack(
    items: Iterable[T], *, cost: Callable[[T], float], shard_cost: float
) -> Iterator[tuple[int, T]]:
    """Yield each item with the number of its shard; a shard is full when its costs reach this."""
    if shard_cost <= 0:
        raise ValueError(f"pack: shard_cost is {shard_cost}; give a cost above 0")
    shard, filled = 0, 0.0
    for item in items:
        if filled >= shard_cost:
            shard, filled = shard + 1, 0.0
        filled += max(cost(item), 0.0)
        yield shard, item


def write_plan(
    path: Path,
    planned: Iterable[PlannedSource],
    *,
    recipe_id: str,
    shard_cost: float,
    retry: Retry | None = None,
    unit_segments: int | None = None,
    is_taken: Callable[[str], bool] = lambda _: False,
) -> PlanHeader:
    """Write a plan to a local file and return its header.

    Args:
        path: Where to.
        planned: What is still to do, sorted by source_id, each source once.
        recipe_id: The recipe to do it by.
        shard_cost: A shard is full when its costs reach this.
        retry: Given for a run that tries rejects again.
        unit_segments: segments of a unit, the same in every attempt of the run.
        is_taken: Whether a run_id is of an earlier generation, one that is finished.
    """
    blocks: list[str] = []
    num_sources, num_shards = 0, 0
    with pq.ParquetWriter(path, PLAN_SCHEMA, compression="zstd") as writer:
        for block in _blocks(pack(planned, cost=_cost, shard_cost=shard_cost)):
            writer.write_table(block)
            blocks.append(_block_sha256(block))
            num_sources += block.num_rows
            num_shards = block["shard"][-1].as_py() + 1
        for generation in itertools.count():
            header = PlanHeader(
                recipe_id=recipe_id,
                generation=generation,
                retry=retry,
                num_sources=num_sources,
                num_shards=num_shards,
                blocks=tuple(blocks),
                unit_segments=unit_segments,
            )
            if not is_taken(header.run_id):
                break
        writer.add_key_value_metadata({_HEADER: header.text.encode()})
    return header


def put_plan(objects: ObjectStore, run_id: str, path: Path) -> bool:
    """Store a plan's file under its run_id; False where it is there already."""
    return objects.create_from(_name(run_id), path)


def get_plan(objects: ObjectStore, run_id: str) -> StoredPlan:
    """Return a stored plan, its header checked against its run_id.

    Raises:
        ObjectMissingError: the lake holds no such plan.
        ObjectError: the file is damaged.
    """
    where = objects.uri(_name(run_id))
    with objects.open(_name(run_id)) as file, _reading(where):
        text = (pq.read_metadata(file).metadata or {}).get(_HEADER, b"{}").decode()
    found = sha256_hex(text.encode())
    if found != run_id:
        raise ObjectError(_changed(where, f"run_id {found[:12]}, expected {run_id[:12]}"))
    values = json.loads(text)
    del values["format"]
    values["blocks"] = tuple(values["blocks"])
    values["retry"] = values["retry"] and Retry(reasons=tuple(values["retry"]["reasons"]))
    return StoredPlan(run_id=run_id, header=PlanHeader(**values), objects=objects)


def plan_sources(plan: StoredPlan, shard: int) -> list[Source]:
    """Return the sources of one shard, in plan order."""
    return plan.sources(shard)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ObjectError(f"{where}: not a plan ({reason_of(error)}); plan anew") from error


def _cost(item: PlannedSource) -> float:
    return item.cost


def _name(run_id: str) -> str:
    return f"plans/{run_id}.parquet"


def _changed(where: str, how: str) -> str:
    return f"{where}: the plan has changed ({how}); plan the run anew"


def _blocks(packed: Iterator[tuple[int, PlannedSource]]) -> Iterator[pa.Table]:
    last = ""
    while rows := list(itertools.islice(packed, _BLOCK_ROWS)):
        keys = [last, *(item.source.source_id for _, item in rows)]
        if not all(itertools.starmap(operator.lt, itertools.pairwise(keys))):
            raise ValueError("write_plan: sources must come sorted by source_id, each once")
        last = keys[-1]
        yield _block(rows)


def _block(rows: Sequence[tuple[int, PlannedSource]]) -> pa.Table:
    names = PLAN_SCHEMA.names[1:]
    columns = {name: [getattr(item.source, name) for _, item in rows] for name in names}
    return pa.table({"shard": [shard for shard, _ in rows], **columns}, schema=PLAN_SCHEMA)


def _block_sha256(block: pa.Table) -> str:
    columns = {name: block[name].to_pylist() for name in PLAN_SCHEMA.names}
    return sha256_hex(canonical_json(columns).encode())


def _blocks_of(metadata: pq.FileMetaData, shard: int) -> list[int]:
    found = []
    for number in range(metadata.num_row_groups):
        span = metadata.row_group(number).column(0).statistics
        if span.min <= shard <= span.max:
            found.append(number)
    return found
