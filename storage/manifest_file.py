"""Manifest files, row by row: Parquet, JSONL or CSV, never whole in memory."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

import fsspec
import pyarrow.parquet as pq

from storage.errors import ManifestError, reason_of

_ROWS_AT_ONCE: Final = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One video as a manifest lists it."""

    uri: str
    """As written: absolute, relative to the manifest, or remote."""
    given_id: str | None
    metadata: str | None
    """The other columns, a JSON object."""


def read_manifest(
    uri: str, files: fsspec.AbstractFileSystem | None = None
) -> Iterator[ManifestRow]:
    """Stream the rows of a manifest.

    Raises:
        ManifestError: it cannot be read, has no column `uri`, or a row has none.
    """
    read = _READERS[PurePosixPath(uri).suffix.lower()]
    try:
        with (files or fsspec.filesystem("file")).open(uri, "rb") as file:
            for number, row in enumerate(read(file), start=1):
                yield _manifest_row(uri, number, row)
    except (OSError, ValueError, csv.Error) as error:
        raise ManifestError(
            f"{uri}: not a readable manifest ({reason_of(error)}); write it anew"
        ) from error


def _manifest_row(manifest: str, number: int, row: object) -> ManifestRow:
    if not isinstance(row, Mapping) or "uri" not in row:
        found = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise ManifestError(
            f"{manifest}: row {number} has no column uri (found: {found or 'nothing'}); "
            "name the column with the videos' paths `uri`"
        )
    if not isinstance(row["uri"], str) or not row["uri"].strip():
        raise ManifestError(f"{manifest}: the uri of row {number} is empty; fill it in")
    given = row.get("id")
    others = {str(k): v for k, v in row.items() if k not in ("uri", "id") and v is not None}
    return ManifestRow(
        uri=row["uri"].strip(),
        given_id=None if given is None or given == "" else str(given),
        metadata=json.dumps(others, sort_keys=True, default=str) if others else None,
    )


def _parquet_rows(file: BinaryIO) -> Iterator[Mapping[str, Any]]:
    table = pq.ParquetFile(file)
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
