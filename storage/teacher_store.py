"""What a teacher said, as Parquet files that are written once.

ROOT/teacher/<teacher_id>/<unit_id>.parquet holds the answers of one unit of examples; the name of a
unit is the hash of what it asks, so a repeated unit changes nothing. Where two files answer the
same key, the first by name counts. ROOT/teacher/videos/ keeps what was found on opening a file.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.identity import canonical_json, sha256_hex
from storage.object_store import ObjectStore

FOLDER: Final = "teacher"
SCHEMA: Final = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("start_us", pa.int64(), nullable=False),
        pa.field("end_us", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("num_new_tokens", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A teacher's answer, or why there is none."""

    key: str
    """Hash of teacher, video, span and prompt."""
    text: str | None
    """The target; None where the span cannot be shown."""
    reason: str | None
    """Reason code, where there is no text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What was found on opening a video's file."""

    video_id: str
    duration_us: int


def put_unit(
    objects: ObjectStore, teacher_id: str, unit_id: str, rows: Sequence[Mapping[str, object]]
) -> bool:
    """Write a unit's rows; False, changing nothing, where the unit is there already."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), buffer)
    return objects.create(f"{FOLDER}/{teacher_id}/{unit_id}.parquet", buffer.getvalue())


def read_said(objects: ObjectStore, teacher_id: str) -> dict[str, Said]:
    """Read all that a teacher said, by key."""
    said: dict[str, Said] = {}
    for name in sorted(objects.names(f"{FOLDER}/{teacher_id}")):
        table = pq.read_table(io.BytesIO(objects.read(name)), columns=["key", "text", "reason"])
        for row in table.to_pylist():
            said.setdefault(row["key"], Said(**row))
    return said


def unit_id(keys: Iterable[str]) -> str:
    """Return the name of the unit that asks these keys."""
    return sha256_hex(canonical_json(sorted(keys)).encode())


def get_facts(objects: ObjectStore, file_key: str) -> FileFacts | None:
    """Return what was found in a file before; `file_key` names its URI, size and version."""
    name = f"{FOLDER}/videos/{file_key}.json"
    return FileFacts(**json.loads(objects.read(name))) if objects.exists(name) else None


def put_facts(objects: ObjectStore, file_key: str, facts: FileFacts) -> None:
    """Remember what was found in a file."""
    objects.create(f"{FOLDER}/videos/{file_key}.json", canonical_json(asdict(facts)).encode())
