"""Read a question set: a Parquet, JSONL or CSV file at any URI, or a SELECT over the catalog.

Rows are streamed. A row that is no question becomes a BadQuestion, so that one line never stops a
million others; only a file that cannot be opened, or lacks its columns altogether, is an error.

    video          an id or its first digits, a path or URI, a file name, the manifest's own id
    question       the text
    question_id    unique in the set; else the sha256 of the row
    start, end     span in seconds, MM:SS or H:MM:SS; or start_us, end_us in microseconds
    reference      the right answer; or references, a list (in CSV: a JSON list)
    question_type  by which results are shown apart

Every other column is kept as metadata.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # it has no types

from storage.errors import CredentialsError, reason_of
from storage.identity import canonical_json, sha256_hex
from storage.lake import Lake
from storage.manifest import refuse_credentials
from storage.remote import file_system, is_remote
from tasks.question_set import BadQuestion, SetQuestion
from video2lora_core.errors import UsageError

_SELECT: Final = re.compile(r"\s*(select|with|from)\s", re.IGNORECASE)
_TIME: Final = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)")
_ROWS_AT_ONCE: Final = 1024
_MAX_US: Final = 2**62
_UNDERSTOOD: Final = frozenset(
    {"video", "question", "question_id", "question_type", "reference", "references"}
    | {"start", "end", "start_us", "end_us"}
)

Row = Mapping[str, Any]


class _WrongError(ValueError):
    """What is wrong with a row."""


def is_select(questions: str) -> bool:
    """Say whether a question set is given as SQL."""
    return _SELECT.match(questions) is not None


def read_questions(questions: str, lake: Lake) -> Iterator[SetQuestion | BadQuestion]:
    """Stream a question set, row by row.

    Args:
        questions: a file's path or URI, or a SELECT over the lake's views.
        lake: where a SELECT is run.

    Raises:
        UsageError: the file is missing, of no known format, or has no such columns.
        CatalogQueryError: the text is not one SELECT, or it failed.
    """
    rows = _selected(questions, lake) if is_select(questions) else _file_rows(questions)
    for number, row in enumerate(rows, start=1):
        yield parse_question(row, number=number)


def parse_question(row: object, *, number: int) -> SetQuestion | BadQuestion:
    """Read one row of a set.

    Args:
        row: its columns; anything else is a bad question.
        number: where it stands, from 1.
    """
    try:
        if not isinstance(row, Mapping):
            raise _WrongError(f"it is no object with columns (found {str(row)[:80]!r})")
        return _question(row)
    except _WrongError as error:
        return BadQuestion(question_id=_given_id(row), detail=f"row {number}: {error}")


def _question(row: Row) -> SetQuestion:
    if None in row:
        raise _WrongError("it has more cells than the header; quote texts with commas")
    video, question = _text(row, "video"), _text(row, "question")
    if video is None or question is None:
        empty = "video" if video is None else "question"
        raise _WrongError(f"`{empty}` is empty; fill it in")
    try:
        refuse_credentials(video)
    except CredentialsError as error:
        raise _WrongError(str(error)) from None
    start_us, end_us = _instant(row, "start"), _instant(row, "end")
    if end_us is not None and (start_us or 0) >= end_us:
        raise _WrongError(f"the span {(start_us or 0) / 1e6:g} s to {end_us / 1e6:g} s is empty")
    others = {str(k): _plain(v) for k, v in row.items() if k not in _UNDERSTOOD}
    return SetQuestion(
        question_id=_given_id(row),
        video=video,
        question=question,
        references=_references(row),
        question_type=_text(row, "question_type"),
        start_us=start_us,
        end_us=end_us,
        metadata={k: v for k, v in others.items() if v is not None and v != ""},
    )


def _given_id(row: object) -> str:
    try:
        given = _text(row, "question_id") if isinstance(row, Mapping) else None
    except _WrongError:
        given = None
    if given is not None:
        return given
    content = _plain(row)
    if isinstance(content, dict):  # what a format leaves out and what it leaves empty are the same
        content = {k: v for k, v in content.items() if v is not None and v != ""}
    return sha256_hex(canonical_json(content).encode())


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, Mapping | list | bytes):
        raise _WrongError(f"`{name}` is {type(value).__name__}, expected a text")
    text = str(value).strip()
    if not text.isprintable() and "\x00" in text:
        raise _WrongError(f"`{name}` holds a zero byte; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _WrongError(f"`{name}` is no Unicode text (half of a surrogate pair)") from None
    return text or None


def _references(row: Row) -> tuple[str, ...]:
    given = row.get("references")
    if isinstance(given, str) and given.strip().startswith("["):
        try:
            given = json.loads(given)
        except ValueError:
            raise _WrongError("`references` starts like a JSON list and is none") from None
    listed = given if isinstance(given, list) else [given]
    texts = [_text({"references": value}, "references") for value in listed]
    first = _text(row, "reference")
    return tuple(dict.fromkeys(text for text in [first, *texts] if text is not None))


def _instant(row: Row, name: str) -> int | None:
    exact, text = _text(row, f"{name}_us"), _text(row, name)
    if exact is not None:
        if not re.fullmatch(r"\d{1,18}(\.0*)?", exact):
            raise _WrongError(f"`{name}_us` is {exact[:40]!r}, expected microseconds from 0")
        return int(exact.partition(".")[0])
    if text is None:
        return None
    if isinstance(row[name], float):  # 1e-06 is a number of seconds, too
        text = f"{Decimal(text):f}"
    found = _TIME.fullmatch(text)
    if not found:
        raise _WrongError(f"`{name}` is {text[:40]!r}, expected seconds, MM:SS or H:MM:SS")
    hours, minutes, seconds = found.groups()
    whole_s = int(hours or 0) * 3600 + int(minutes or 0) * 60 + Decimal(seconds)
    instant_us = int((whole_s * 1_000_000).to_integral_value())
    if instant_us > _MAX_US:
        raise _WrongError(f"`{name}` is {text[:40]!r}, longer than any video")
    return instant_us


def _plain(value: object) -> Any:
    """Return a value as JSON has it."""
    match value:
        case None | bool() | int() | str():
            return value.encode(errors="replace").decode() if isinstance(value, str) else value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return str(value)


def _selected(sql: str, lake: Lake) -> Iterator[object]:
    found = lake.query(sql)
    _require_columns(f"sql {sql.strip()[:60]!r}", found.column_names)
    for batch in found.to_batches(max_chunksize=_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _file_rows(uri: str) -> Iterator[object]:
    refuse_credentials(uri)
    read = _READERS.get(PurePosixPath(uri).suffix.lower())
    if read is None:
        raise UsageError(
            f"{uri}: not a question set (suffix {PurePosixPath(uri).suffix or 'missing'}, expected "
            f"{', '.join(_READERS)}); rename it, or give a SELECT over the catalog"
        )
    files = file_system(uri, None) if is_remote(uri) else fsspec.filesystem("file")
    where = uri if is_remote(uri) else str(Path(uri).expanduser())
    try:
        with files.open(where, "rb") as file:
            yield from read(where, file)
    except FileNotFoundError:
        raise UsageError(f"{uri}: no such question set; check the path") from None
    except (OSError, BotoCoreError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UsageError(
            f"{uri}: not a readable question set ({reason_of(error)}); write it anew"
        ) from error


def _require_columns(where: str, names: Iterable[str] | None) -> None:
    found = list(names or ())
    missing = [name for name in ("video", "question") if name not in found]
    if missing:
        raise UsageError(
            f"{where}: no column {' and '.join(missing)} (found: {', '.join(found) or 'nothing'}); "
            "name the columns `video` and `question`"
        )


def _parquet_rows(where: str, file: BinaryIO) -> Iterator[object]:
    table = pq.ParquetFile(file)
    _require_columns(where, table.schema_arrow.names)
    for rows in table.iter_batches(batch_size=_ROWS_AT_ONCE):
        yield from rows.to_pylist()


def _jsonl_rows(_where: str, file: BinaryIO) -> Iterator[object]:
    for line in file:
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except ValueError:  # also where it is no UTF-8
            yield line.decode(errors="replace").strip()


def _csv_rows(where: str, file: BinaryIO) -> Iterator[object]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        _require_columns(where, reader.fieldnames)
        yield from reader


_READERS: Final[Mapping[str, Callable[[str, BinaryIO], Iterator[object]]]] = {
    ".parquet": _parquet_rows,
    ".jsonl": _jsonl_rows,
    ".csv": _csv_rows,
}
