"""The rows of an annotation file, and the checks that every field passes.

JSONL, CSV and Parquet are streamed; a JSON document is read whole, up to a bound. A row that is
wrong becomes a BadRow and the rest goes on; only a file that is unreadable as a whole is an error.
"""

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import reason_of
from video2lora_core.errors import UsageError

LARGEST_JSON_BYTES: Final = 512 * 1024**2
_ROWS_AT_ONCE: Final = 1024
_SHOWN: Final = 60

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """A row that is no question, or whose video is missing."""

    line: int
    """Line of the file; in JSON and Parquet the number of the entry. Both from 1."""
    reason: str
    """What is wrong with it."""


class RowError(ValueError):
    """What is wrong with a row or a part of it."""


def read_rows(path: Path) -> Iterator[tuple[int, object]]:
    """Stream the rows of an annotation file, each with its line or its number.

    A line that is no JSON comes as the RowError that says so.

    Raises:
        UsageError: the file is missing, of no known format, or damaged as a whole.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"{path}: not an annotation file (suffix {path.suffix or 'missing'}, expected one of "
            f"{', '.join(_READERS)}); give the benchmark's own file"
        )
    try:
        yield from read(path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, RecursionError, csv.Error, pa.ArrowException) as error:
        raise UsageError(
            f"{path}: not a readable {path.suffix} file ({reason_of(error)}); fetch it again"
        ) from error


def read_document(path: Path) -> Any:
    """Return a JSON file's content.

    Raises:
        UsageError: the file is missing, no JSON, or above `LARGEST_JSON_BYTES`.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > LARGEST_JSON_BYTES:
            raise UsageError(
                f"{path}: {size_bytes} bytes of one JSON document (at most {LARGEST_JSON_BYTES});"
                " write its entries as JSONL, which is streamed"
            )
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a readable JSON file ({reason_of(error)}); fetch it again"
        ) from error


def as_row(value: object) -> Row:
    """Return a row's columns; RowError where it has none."""
    if isinstance(value, RowError):
        raise value
    if not isinstance(value, Mapping):
        raise RowError(f"it is {_shown(value)}, expected an object with named fields")
    return value


def text(row: Row, name: str) -> str:
    """Return a field that must be a text with something in it; a whole number becomes a text."""
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RowError(f"`{name}` is {_shown(value)}, expected a text")
    stripped = value.strip()
    if not stripped or "\x00" in stripped:
        raise RowError(f"`{name}` is empty or holds a zero byte")
    try:
        stripped.encode()
    except UnicodeEncodeError:
        raise RowError(f"`{name}` is no Unicode text") from None
    return stripped


def whole(row: Row, name: str) -> int:
    """Return a field that must be a whole number from 0; in CSV it is written as a text."""
    value = row.get(name)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RowError(f"`{name}` is {_shown(value)}, expected a whole number from 0")
    return value


def number(value: object, name: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"`{name}` is {_shown(value)}, expected a number")
    return float(value)


def listed(row: Row, name: str) -> list[Any]:
    """Return a field that must be a list with something in it."""
    value = row.get(name)
    if not isinstance(value, list) or not value:
        raise RowError(f"`{name}` is {_shown(value)}, expected a list with entries")
    return value


def _shown(value: object) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:_SHOWN]!r}"


def _jsonl(path: Path) -> Iterator[tuple[int, object]]:
    with path.open("rb") as file:
        for line, content in enumerate(file, start=1):
            if not content.strip():
                continue
            try:
                yield line, json.loads(content.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                yield line, RowError("it is not one JSON object in UTF-8")


def _json(path: Path) -> Iterator[tuple[int, object]]:
    content = read_document(path)
    if not isinstance(content, list):
        raise UsageError(
            f"{path}: holds one {type(content).__name__} (expected a list of rows); give the"
            " benchmark's own file"
        )
    yield from enumerate(content, start=1)


def _csv(path: Path) -> Iterator[tuple[int, object]]:
    # What is no UTF-8 becomes half a surrogate pair, which `text` refuses row by row.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            has_all = None not in row and None not in row.values()
            wrong = RowError("it has not as many cells as the header")
            yield reader.line_num, row if has_all else wrong


def _parquet(path: Path) -> Iterator[tuple[int, object]]:
    table = pq.ParquetFile(path)
    rows = (row for batch in table.iter_batches(_ROWS_AT_ONCE) for row in batch.to_pylist())
    yield from enumerate(rows, start=1)


_READERS: Final[Mapping[str, Callable[[Path], Iterator[tuple[int, object]]]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
}
