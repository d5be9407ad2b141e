"""The commands that keep a lake well, on a lake that the pipeline made."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(corpus: Path, tmp_path: Path, model: str) -> InternalizeConfig:
    return InternalizeConfig(corpus=str(corpus), lake=str(tmp_path / "lake"), model=model)


def told(call: Call, *arguments: object, code: int = 0) -> dict[str, Any]:
    found, out, error = call(*arguments, "--json")
    assert found == code, error
    document: dict[str, Any] = json.loads(out)
    return document


def test_a_lake_that_the_pipeline_made_is_whole_and_stays_so(
    call: Call, config: InternalizeConfig
) -> None:
    internalize_corpus(config, LocalEngine())
    lake = ("--lake", config.lake)
    assert told(call, "verify", *lake)["counts"]["adapters"] == 5
    planned = told(call, "compact", *lake, "--dry-run")
    assert planned["is_dry_run"]
    assert told(call, "compact", *lake)["counts"]["rows"] == planned["counts"]["rows"]
    assert told(call, "gc", *lake, "--now")["counts"]["deleted"] == 0
    assert told(call, "verify", *lake)["rows"] == []
    again = internalize_corpus(config, LocalEngine())
    assert (again.shards.num_segments, again.shards.num_files_decoded) == (0, 0)
    path = next((Path(config.lake) / "adapters").rglob("*.safetensors"))
    path.unlink()
    faults = told(call, "verify", *lake, "--quick", code=1)["rows"]
    assert [fault["where"] for fault in faults] == [str(path)]
    code, out, _ = call("verify", *lake)
    assert code == 1
    assert str(path) in out
    assert "fix:" in out


def test_a_deleted_video_stays_deleted_on_the_next_run(
    call: Call, config: InternalizeConfig
) -> None:
    internalize_corpus(config, LocalEngine())
    lake = ("--lake", config.lake)
    before = json.loads(call("sql", "from videos", *lake, "--json")[1])
    video = before[0]["video_id"]
    assert told(call, "delete", "--video", video, *lake, "--dry-run")["counts"]["videos"] == 1
    deleted, collected = told(call, "delete", "--video", video[:8], "--now", *lake)
    assert deleted["rows"] == [{"video_id": video}]
    assert collected["counts"]["deleted"] > 0
    again = internalize_corpus(config, LocalEngine())
    assert (again.shards.num_segments, again.shards.num_files_decoded) == (0, 0)
    after = json.loads(call("sql", "from videos", *lake, "--json")[1])
    assert len(after) == len(before) - 1
    assert told(call, "verify", *lake)["rows"] == []
    told(call, "delete", "--video", video, "--undo", *lake)
    assert internalize_corpus(config, LocalEngine()).shards.num_segments > 0


def test_sql_answers_as_of_a_time_or_a_version(call: Call, config: InternalizeConfig) -> None:
    internalize_corpus(config, LocalEngine())
    query = ("sql", "select count(*) as n from adapters", "--lake", config.lake, "--json")
    assert json.loads(call(*query, "--as-of", "2100-01-01")[1]) == [{"n": 5}]
    assert json.loads(call(*query, "--as-of", "2000-01-01T00:00")[1]) == [{"n": 0}]
    assert json.loads(call(*query, "--as-of", "adapters=0")[1]) == [{"n": 0}]
    code, _, error = call(*query, "--as-of", "yesterday")
    assert code == 1
    assert "as-of 'yesterday': cannot be read" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("verify",), "no lake here"),
        (("compact",), "no lake here"),
        (("gc",), "no lake here"),
        (("delete", "--video", "x"), "no lake here"),
        (("gc", "--grace", "0.1"), "shorter than a commit may take"),
    ],
)
def test_a_wrong_call_is_one_line(
    call: Call, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, _, error = call(*arguments, "--lake", tmp_path / "nowhere")
    assert code == 1
    assert said in error
    assert error.count("\n") == 1
