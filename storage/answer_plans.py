"""The plan of answering: every question of a set, what it was joined with, and its unit.

Questions come sorted and are cut into units and shards by count, so the same set over the same
catalog gives the same plan, and hence the same run_id, in whatever order it was read. A plan is one
Parquet file under ROOT/questions/, a row group per shard; its header holds the sha256 of each.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ObjectError, reason_of
from storage.identity import canonical_json, sha256_hex
from storage.object_store import ObjectStore
from storage.schemas import Row

_TEXT, _LONG = pa.string(), pa.int64()
QUESTION_SCHEMA: Final = pa.schema(
    [
        ("question_id", _TEXT),
        ("video_id", _TEXT),  # null where the video is unknown
        ("question", _TEXT),  # null where the row was no question
        ("start_us", _LONG),
        ("end_us", _LONG),
        ("references", _TEXT),  # a JSON list
        ("question_type", _TEXT),
        ("metadata", _TEXT),  # a JSON object
        ("recipe_id", _TEXT),  # of the adapters
        ("answer_id", _TEXT),  # null where the question is rejected already
        ("reason", _TEXT),
        ("is_terminal", pa.bool_()),
        ("detail", _TEXT),
    ]
)
# What a plan is told apart by. The detail of a reject names the row's place in its file.
_HASHED: Final = QUESTION_SCHEMA.names[:-1]
_SORTED: Final = [
    "video_id",
    "start_us",
    "end_us",
    "question",
    "question_id",
    "question_type",
    "references",
    "metadata",
    "reason",
]
_DECIDED: Final = ("question_id", "answer_id", "reason", "is_terminal", "detail")
_FORMAT: Final = 1
_HEADER: Final = b"video2lora.answers"


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerHeader:
    """What a plan says about itself; its canonical JSON hashes to the run_id."""

    settings: Mapping[str, Any]
    """Everything that decides the answers beside the questions: mode, strategy, model."""
    question_set: str
    """Where the questions were read."""
    generation: int
    """How often the very same plan was carried out and finished before."""
    is_again: bool
    """Whether questions are asked again that have an answer."""
    num_questions: int
    unit_questions: int
    """Questions of a unit, committed at once."""
    shard_questions: int
    """Questions of a shard, a multiple of the unit's."""
    shards: tuple[str, ...]
    """The sha256 of each shard's rows."""

    @property
    def text(self) -> str:
        """The canonical JSON."""
        return canonical_json({"format": _FORMAT, **asdict(self)})

    @property
    def run_id(self) -> str:
        """The sha256 of the header, and through it of every row."""
        return sha256_hex(self.text.encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPlan:
    """A plan in a lake: its header is read, its rows are not."""

    run_id: str
    header: AnswerHeader
    objects: ObjectStore

    def shard(self, number: int) -> list[Row]:
        """Return the questions of one shard, in plan order.

        Raises:
            ObjectError: the file is damaged.
        """
        where = self.objects.uri(_name(self.run_id))
        with self.objects.open(_name(self.run_id)) as file, _reading(where):
            block = pq.ParquetFile(file).read_row_group(number).select(QUESTION_SCHEMA.names)
        rows: list[Row] = block.to_pylist()
        if _sha256(rows) != self.header.shards[number]:
            raise ObjectError(f"{where}: shard {number} has changed; ask the questions anew")
        return rows

    def units(self, number: int) -> list[list[Row]]:
        """Return the questions of one shard, unit by unit."""
        rows, size = self.shard(number), self.header.unit_questions
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def questions(self) -> Iterator[Row]:
        """Stream every question of the plan."""
        for number in range(len(self.header.shards)):
            yield from self.shard(number)


def sort_questions(questions: pa.Table) -> pa.Table:
    """Return the questions in the one order that does not depend on how they were read.

    A question_id that is there several times is kept at the first; the others become rejects.
    """
    rows = questions.sort_by([(name, "ascending") for name in _SORTED])
    seen: dict[str, int] = {}
    columns = {name: rows[name].to_pylist() for name in _DECIDED}
    for place, question_id in enumerate(columns["question_id"]):
        seen[question_id] = seen.get(question_id, 0) + 1
        if seen[question_id] > 1:
            columns["question_id"][place] = f"{question_id}#{seen[question_id]}"
            columns["answer_id"][place] = None
            columns["reason"][place], columns["is_terminal"][place] = "QUESTION_INVALID", True
            columns["detail"][place] = f"question_id {question_id[:80]!r} is given more than once"
    for name, values in columns.items():
        at, field = rows.schema.get_field_index(name), rows.schema.field(name)
        rows = rows.set_column(at, field, pa.array(values, field.type))
    return rows


def shard_hashes(questions: pa.Table, shard_questions: int) -> tuple[str, ...]:
    """Return the sha256 of each shard's rows."""
    starts = range(0, questions.num_rows, shard_questions)
    return tuple(_sha256(questions.slice(at, shard_questions).to_pylist()) for at in starts)


def put_answer_plan(objects: ObjectStore, header: AnswerHeader, questions: pa.Table) -> AnswerPlan:
    """Store a plan under its run_id, unless it is there, and return it."""
    with tempfile.TemporaryDirectory(prefix="video2lora-") as folder:
        path = Path(folder) / "questions.parquet"
        with pq.ParquetWriter(path, QUESTION_SCHEMA, compression="zstd") as writer:
            writer.write_table(questions, row_group_size=header.shard_questions)
            writer.add_key_value_metadata({_HEADER: header.text.encode()})
        objects.create_from(_name(header.run_id), path)
    return AnswerPlan(run_id=header.run_id, header=header, objects=objects)


def get_answer_plan(objects: ObjectStore, run_id: str) -> AnswerPlan:
    """Return a stored plan, its header checked against its run_id.

    Raises:
        ObjectMissingError: the lake holds no such plan.
        ObjectError: the file is damaged.
    """
    where = objects.uri(_name(run_id))
    with objects.open(_name(run_id)) as file, _reading(where):
        text = (pq.read_metadata(file).metadata or {}).get(_HEADER, b"{}").decode()
    if sha256_hex(text.encode()) != run_id:
        raise ObjectError(f"{where}: the plan has changed; ask the questions anew")
    values = json.loads(text)
    del values["format"]
    values["shards"] = tuple(values["shards"])
    return AnswerPlan(run_id=run_id, header=AnswerHeader(**values), objects=objects)


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        said = reason_of(error)
        raise ObjectError(f"{where}: not a plan ({said}); ask the questions anew") from error


def _name(run_id: str) -> str:
    return f"questions/{run_id}.parquet"


def _sha256(rows: list[Row]) -> str:
    return sha256_hex(canonical_json([[row[name] for name in _HASHED] for row in rows]).encode())
