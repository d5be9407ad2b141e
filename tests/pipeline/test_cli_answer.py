"""`video2lora answer`: from a file of questions to a file of answers, in one command."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.lake import open_lake
from tests.pipeline.answer_sets import NUM_QUESTIONS, write_set
from tests.pipeline.conftest import Call, Run


def test_a_set_is_answered_shown_and_written(
    run: Run, call: Call, tmp_path: Path, model: str
) -> None:
    run()
    lake, questions = tmp_path / "lake", write_set(tmp_path / "questions.jsonl")
    options = ("--lake", lake, "--model", model, "--engine", "local", "--max-new-tokens", 4)
    code, out, _ = call("answer", questions, *options, "--out", tmp_path / "a.jsonl")
    assert code == 0
    assert f"{NUM_QUESTIONS} questions about 2 videos: {NUM_QUESTIONS} answered" in out
    for words in ("questions/s", "first token", "prompt tokens"):
        assert words in out
    written = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {row["question_id"] for row in written} == {f"q{n:03d}" for n in range(NUM_QUESTIONS)}
    assert all(row["answer"] is not None and row["reason"] is None for row in written)
    code, out, _ = call("answer", questions, *options, "--json", "--out", tmp_path / "a.csv")
    document = json.loads(out)
    assert (code, document["shards"]["num_answered"], document["questions_per_s"]) == (0, 0, None)
    with (tmp_path / "a.csv").open(newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == [r["answer"] for r in written]
    assert call("answer", questions, *options, "--out", tmp_path / "a.parquet")[0] == 0
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [row["answer"] for row in rows] == [row["answer"] for row in written]
    [red] = [row for row in rows if row["question_type"] == "c"]
    assert red["references"] == ["red"]


def test_a_query_and_a_config_are_question_sets_too(
    run: Run, call: Call, tmp_path: Path, model: str
) -> None:
    run()
    config = tmp_path / "answer.yaml"
    config.write_text(f"lake: {tmp_path / 'lake'}\nmodel: {model}\nmode: blind\nengine: local\n")
    sql = "select video_id as video, 'What happens?' as question, uri from videos"
    code, out, _ = call("answer", sql, "--config", config, "--json")
    assert (code, json.loads(out)["found"]["num_answers"]) == (0, 2)
    rows = open_lake(tmp_path / "lake").query("select mode, metadata from answers").to_pylist()
    assert {row["mode"] for row in rows} == {"blind"}
    assert all(json.loads(row["metadata"])["uri"].endswith(".mp4") for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.csv", "--lake", "lake"], "no lake here"),
        (["q.csv"], "key `lake` is missing"),
        (["q.csv", "--lake", "lake", "--mode", "dream"], "`mode` is wrong"),
        (["q.csv", "--lake", "lake", "--out", "a.txt"], "unknown suffix"),
        (["s3://key:secret@x/q.csv", "--lake", "lake"], "credentials"),
    ],
)
def test_a_wrong_call_is_one_clear_line(call: Call, arguments: list[str], said: str) -> None:
    code, out, err = call("answer", *arguments, "--engine", "local")
    assert (code, out) == (1, "")
    assert said in err
    assert len(err.splitlines()) == 1
    assert "secret" not in err
