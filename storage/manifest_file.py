"""Manifest files, row by row: Parquet, JSONL or CSV, never whole in memory.

The column `uri` is required. `id`, `duration` (seconds), `size_bytes`, `version_token` and `etag`
are understood where they are there; `duration` and all other columns are kept as JSON text.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import ManifestError, reason_of

_ROWS_AT_ONCE: Final = 1024
_READ_BYTES: Final = 1 << 20
_UNDERSTOOD: Final = frozenset({"uri", "id", "size_bytes", "version_token", "etag"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One video as a manifest lists it."""

    uri: str
    """As written: absolute, relative to the manifest, or remote."""
    given_id: str | None
    metadata: str | None
    """`duration` and the columns that mean nothing to us, a JSON object."""
    duration_us: int | None
    """Length as the manifest has it; for planning only."""
    size_bytes: int | None
    version_token: str | None
    """With `size_bytes` it spares a look at the file."""


def read_manifest(
    uri: str, files: fsspec.AbstractFileSystem | None = None
) -> Iterator[ManifestRow]:
    """Stream the rows of a manifest.

    Raises:
        ManifestError: it cannot be read, has no column `uri`, or a row has a value that is none.
    """
    read = _READERS[PurePosixPath(uri).suffix.lower()]
    try:
        with (files or fsspec.filesystem("file")).open(uri, "rb") as file:
            for number, row in enumerate(read(file), start=1):
                yield _manifest_row(f"{uri}: row {number}", row)
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise ManifestError(
            f"{uri}: not a readable manifest ({reason_of(error)}); write it anew"
        ) from error


def _manifest_row(where: str, row: object) -> ManifestRow:
    if not isinstance(row, Mapping) or "uri" not in row:
        found = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise ManifestError(
            f"{where} has no column uri (found: {found or 'nothing'}); "
            "name the column with the videos' paths `uri`"
        )
    if not isinstance(row["uri"], str) or not row["uri"].strip():
        manifest, _, number = where.rpartition(": ")
        raise ManifestError(f"{manifest}: the uri of {number} is empty; fill it in")
    others = {str(k): v for k, v in row.items() if k not in _UNDERSTOOD and v is not None}
    duration_s = _number(where, row, "duration")
    size_bytes = _number(where, row, "size_bytes")
    return ManifestRow(
        uri=row["uri"].strip(),
        given_id=_text(row, "id"),
        metadata=json.dumps(others, sort_keys=True, default=str) if others else None,
        duration_us=None if duration_s is None else round(duration_s * 1e6),
        size_bytes=None if size_bytes is None else round(size_bytes),
        version_token=_token(row),
    )


def _text(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return None if value is None or value == "" else str(value)


def _number(where: str, row: Mapping[str, Any], name: str) -> float | None:
    """A number of a CSV is text, a missing one an empty text or NaN."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if math.isnan(number):
        return None
    if number < 0 or math.isinf(number):
        raise ManifestError(f"{where}: {name} is {value!r}, expected a number from 0; correct it")
    return number


def _token(row: Mapping[str, Any]) -> str | None:
    token, etag = _text(row, "version_token"), _text(row, "etag")
    # Inventories write an etag bare, S3 itself answers it in quotes.
    return token or (f'"{etag.strip(chr(34))}"' if etag else None)


def _parquet_rows(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    # Without a buffer size Arrow reads whole column blocks, however many rows they hold.
    table = pq.ParquetFile(file, buffer_size=_READ_BYTES)
    if "uri" not in table.schema_arrow.names:
        yield dict.fromkeys(table.schema_arrow.names)
    for rows in table.iter_batches(batch_size=_ROWS_AT_ONCE):
        yield from rows.to_pylist()


def _jsonl_rows(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    return (json.loads(line) for line in file if line.strip())


def _csv_rows(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, restkey="more")
        if "uri" not in (reader.fieldnames or ()):
            yield dict.fromkeys(reader.fieldnames or ())
        yield from reader


_READERS: Final[Mapping[str, Callable[[BinaryIO], Iterator[Mapping[str, Any]]]]] = {
    ".parquet": _parquet_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
}
MANIFEST_SUFFIXES: Final = frozenset(_READERS)
