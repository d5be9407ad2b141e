"""The command line: what it prints, and that every fault is one line with the right exit code."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.clock import parse_time_us, show_time
from flows.console import make_table
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from video2lora_core.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, shelf: Path, model: str) -> Path:
    """A lake that the tests of this module only read."""
    path = tmp_path_factory.mktemp("cli") / "lake"
    config = InternalizeConfig(corpus=str(shelf), lake=str(path), model=model)
    internalize_corpus(config, LocalEngine())
    return path


def test_internalize_sums_up_as_json(call: Call, corpus: Path, tmp_path: Path, model: str) -> None:
    lake = tmp_path / "lake"
    code, out, _ = call("internalize", corpus, "--lake", lake, "--model", model, "--json")
    summary: dict[str, Any] = json.loads(out)
    assert code == 0
    assert summary["engine"] == "local"
    assert summary["shards"]["num_segments"] == 5
    assert Path(summary["published"]["catalog"]).exists()


def test_ask_answers_in_json_for_programs(call: Call, lake: Path, model: str) -> None:
    shared = ("--lake", lake, "--model", model, "--max-new-tokens", 2)
    question = ("long.mp4", "How many objects are there?", "--from", "00:05", "--to", "0:09")
    code, out, _ = call("ask", *question, *shared, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["segments_s"] == [[4.0, 8.0], [8.0, 10.0]]
    assert answer["num_visual_tokens"] == 0
    code, out, _ = call("ask", *question, *shared, "--verbose")
    assert "visual tokens  0" in out


def test_sql_prints_a_table_json_or_csv(call: Call, lake: Path) -> None:
    query = ("sql", "select num_segments, codec from videos order by 1", "--lake", lake)
    _, out, _ = call(*query)
    assert "num_segments" in out
    assert "2 rows" in out
    _, out, _ = call(*query, "--json")
    assert json.loads(out)[0] == {"num_segments": 2, "codec": "h264"}
    _, out, _ = call(*query, "--csv")
    assert next(csv.reader(io.StringIO(out))) == ["num_segments", "codec"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["internalize", "nowhere", "--lake", "new"], "nowhere: no such file or directory"),
        (["internalize", "--lake", "new"], "key `corpus` is missing"),
        (["internalize", "x", "--lake", "new", "--engine", "fast"], "key `engine` is wrong"),
        (["internalize", "lake", "--lake", "new", "--model", "huge"], "no video in this directory"),
        (["internalize", "--config", "run.yaml"], "unknown key `corpsu`"),
        (["ask", "ling.mp4", "What?", "--lake", "lake"], "near matches: long.mp4"),
        (["ask", "long.mp4", "", "--lake", "lake"], "the text is empty"),
        (["ask", "long.mp4", "What?", "--from", "20", "--lake", "lake"], "outside the video"),
        (["ask", "long.mp4", "What?", "--to", "x", "--lake", "lake"], "cannot be read"),
        (["sql", "drop table videos", "--lake", "lake"], "exactly one SELECT"),
        (["sql", "select 1", "--lake", "nolake"], "no lake here"),
    ],
)
def test_every_fault_is_one_line_and_exit_code_1(
    call: Call,
    lake: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(lake.parent)
    Path("run.yaml").write_text("corpsu: videos\nlake: new\n")
    if arguments[0] != "sql" and "--model" not in arguments:
        arguments = [*arguments, "--model", model]
    code, out, err = call(*arguments)
    assert code == 1
    assert err.startswith("Error: ")
    assert said in err
    assert err.count("\n") == 1
    assert out == ""


def test_a_wrong_call_ends_with_code_2(call: Call) -> None:
    assert call("ask")[0] == 2
    assert call("unknown")[0] == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("75", 75), ("01:15", 75), ("1:00:00.5", 3600.5), ("0:09", 9), ("7.25", 7.25)],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_time_us(text) == seconds * 1_000_000


@pytest.mark.parametrize("text", ["", "1:2:3:4", "-1", "ten", "1:", "1.1234567"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        parse_time_us(text)


def test_times_are_shown_as_they_are_read() -> None:
    assert show_time(75_500_000) == "01:15.5"
    assert show_time(3_600_000_000) == "1:00:00.0"


def test_a_table_shows_text_of_the_catalog_without_acting_on_it() -> None:
    table = make_table(["name"], [["[red]\x1b[31mred"]])
    assert list(table.columns[0].cells) == ["\\[red] \\[31mred"]
