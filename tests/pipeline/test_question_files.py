"""A question set reads the same from every format, and no row of it is lost."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.lake import Lake, open_lake
from tasks.question_files import parse_question, read_questions
from tasks.question_set import BadQuestion, SetQuestion
from video2lora_core.errors import UsageError

Write = Callable[[Path, list[dict[str, Any]]], None]

TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12
).filter(lambda text: text == text.strip() and text.strip() != "")
COLUMN = st.sampled_from(["source", "split", "level"])


@st.composite
def questions(draw: st.DrawFn) -> SetQuestion:
    start_us = draw(st.none() | st.integers(0, 10**12))
    length_us = draw(st.none() | st.integers(1, 10**12))
    references = draw(st.lists(TEXT, max_size=3, unique=True))
    return SetQuestion(
        question_id=draw(TEXT),
        video=draw(st.from_regex(r"[a-z0-9]{1,8}(/[a-z]{1,5})?\.mp4", fullmatch=True)),
        question=draw(TEXT),
        references=tuple(references),
        question_type=draw(st.none() | TEXT),
        start_us=start_us,
        end_us=None if length_us is None else (start_us or 0) + length_us,
        metadata=draw(st.dictionaries(COLUMN, TEXT, max_size=3)),
    )


def columns(question: SetQuestion) -> dict[str, Any]:
    values = asdict(question)
    metadata = values.pop("metadata")
    values["references"] = list(values["references"])
    return {**values, **metadata}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            lists = {name: json.dumps(v) for name, v in row.items() if isinstance(v, list)}
            writer.writerow({**row, **lists})


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    kinds = {"references": pa.list_(pa.string()), "start_us": pa.int64(), "end_us": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


WRITERS: dict[str, Write] = {".jsonl": write_jsonl, ".csv": write_csv, ".parquet": write_parquet}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return open_lake(tmp_path_factory.mktemp("lake") / "lake", create=True)


@pytest.mark.parametrize("suffix", WRITERS)
@settings(max_examples=15)
@given(rows=st.lists(questions(), min_size=1, max_size=5))
def test_what_is_written_in_any_format_reads_back(
    suffix: str, rows: list[SetQuestion], tmp_path_factory: pytest.TempPathFactory, lake: Lake
) -> None:
    path = tmp_path_factory.mktemp("set") / f"questions{suffix}"
    WRITERS[suffix](path, [columns(row) for row in rows])
    assert list(read_questions(str(path), lake)) == rows


@given(row=st.dictionaries(st.sampled_from(["video", "question", "start", "end", "references",
    "question_id", "end_us", "more"]), st.none() | st.integers() | st.floats() | st.text()
    | st.lists(st.text(), max_size=2) | st.binary(max_size=3)))  # fmt: skip
def test_any_row_is_a_question_or_a_bad_one_and_never_an_error(row: dict[str, Any]) -> None:
    found = parse_question(row, number=1)
    assert isinstance(found, SetQuestion | BadQuestion)
    assert found.question_id
    assert parse_question(row, number=2).question_id == found.question_id


def test_a_row_has_the_same_id_in_every_format(tmp_path: Path, lake: Lake) -> None:
    rows = [{"video": "a.mp4", "question": "What?", "split": "x", "question_type": None}]
    ids = set()
    for suffix, write in WRITERS.items():
        write(tmp_path / f"q{suffix}", rows)
        ids |= {q.question_id for q in read_questions(str(tmp_path / f"q{suffix}"), lake)}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("given", "expected_us"),
    [
        ("0", 0),
        ("1.5", 1_500_000),
        (2, 2_000_000),
        (0.000001, 1),
        ("01:15", 75_000_000),
        ("1:00:00.25", 3_600_250_000),
    ],
)
def test_times_are_read_as_people_write_them(given: object, expected_us: int) -> None:
    found = parse_question({"video": "v", "question": "q", "start": given}, number=1)
    assert isinstance(found, SetQuestion), found
    assert found.start_us == expected_us


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q"}, "`video` is empty"),
        ({"video": "v", "question": "  "}, "`question` is empty"),
        ({"video": "v", "question": "q", "start": "-1"}, "expected seconds"),
        ({"video": "v", "question": "q", "end_us": "1.5"}, "expected microseconds"),
        ({"video": "v", "question": "q", "start": 5, "end": 5}, "is empty"),
        ({"video": "v", "question": "q", "references": "[1"}, "starts like a JSON list"),
        ({"video": "v", "question": {"a": 1}}, "expected a text"),
        ({"video": "v", "question": "\ud800"}, "surrogate"),
        ({"video": "s3://key:secret@host/v.mp4", "question": "q"}, "credentials"),
        ({"video": "v", "question": "q", None: ["more"]}, "more cells"),
        ("no mapping", "no object"),
    ],
)
def test_a_bad_row_says_what_is_wrong_and_where(row: object, said: str) -> None:
    found = parse_question(row, number=17)
    assert isinstance(found, BadQuestion)
    assert said in found.detail
    assert found.detail.startswith("row 17: ")
    assert "secret" not in found.detail


def test_a_line_that_is_no_json_stops_nobody(tmp_path: Path, lake: Lake) -> None:
    path = tmp_path / "q.jsonl"
    good = json.dumps({"video": "v", "question": "q"}).encode()
    path.write_bytes(good + b'\n{"video": \n\xff\xfe\n' + good + b"\n")
    kinds = [type(item) for item in read_questions(str(path), lake)]
    assert kinds == [SetQuestion, BadQuestion, BadQuestion, SetQuestion]


def test_a_query_over_the_catalog_is_a_question_set(lake: Lake) -> None:
    sql = "select 'v' || i as video, 'What?' as question, i as n from range(3) t(i)"
    found = sorted(read_questions(sql, lake), key=lambda q: q.question_id)
    assert {q.video for q in found} == {"v0", "v1", "v2"}
    assert {q.metadata["n"] for q in found} == {0, 1, 2}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.csv", None, "no such question set"),
        ("q.txt", "video,question", "suffix .txt"),
        ("q.csv", "name,text\na,b\n", "no column video and question"),
        ("q.parquet", "no parquet", "not a readable question set"),
    ],
)
def test_a_file_that_is_no_question_set_is_one_clear_line(
    tmp_path: Path, lake: Lake, name: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=said) as caught:
        list(read_questions(str(tmp_path / name), lake))
    assert "\n" not in str(caught.value)
