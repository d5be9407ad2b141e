"""A lake that schema 1 wrote is read, checked and written to by today's code."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.keeper import Keeper
from storage.lake import Lake, open_lake
from storage.schemas import SCHEMA_VERSION, TABLES, table_schema

OLD = Path(__file__).with_name("lake_v1")
# What the files of that lake are: short texts, and no checkpoint was put.
FAKES = {"adapter_shape", "checkpoint"}


@pytest.fixture
def old(tmp_path: Path) -> Lake:
    return open_lake(shutil.copytree(OLD, tmp_path / "lake"))


def test_its_rows_have_todays_columns(old: Lake) -> None:
    for table in TABLES:
        found = old.table(table)
        assert found.schema.names == table_schema(table).names
        assert set(found["schema_version"].to_pylist()) <= {1}
    assert old.table("adapters").num_rows > 0


@pytest.mark.parametrize(
    "view",
    ["adapters", "adapters_latest", "videos", "segments", "open_rejects", "coverage",
     "compositions_latest", "cost_per_video_hour", "recipes", "runs", "sources", "answers"],
)  # fmt: skip
def test_every_view_answers(old: Lake, view: str) -> None:
    assert old.query(f"select count(*) as n from {view}").num_rows == 1


def test_what_the_pipeline_asks_is_answered(old: Lake) -> None:
    row = old.table("adapters").to_pylist()[0]
    found = old.adapters_for([row["video_id"]], row["recipe_id"])[row["video_id"]]
    assert [row["start_us"] for row in found] == sorted(row["start_us"] for row in found)
    assert row["adapter_sha256"] in {row["adapter_sha256"] for row in found}
    assert old.adapters.get(row["adapter_sha256"])
    assert old.done_segments(row["recipe_id"])


def test_new_rows_stand_beside_old_ones(old: Lake, rows: Any, commit: Callable[..., str]) -> None:
    before = old.table("adapters").num_rows
    adapters = [{**rows.adapter(old, "new video", i), "is_random": True} for i in range(2)]
    assert commit(old, adapters, run_id="new") == "committed"
    again = open_lake(old.uri)
    versions = Counter(again.table("adapters")["schema_version"].to_pylist())
    assert versions == {1: before, SCHEMA_VERSION: 2}
    found = again.query("select count(*) as n, count(is_random) as m from adapters").to_pylist()
    assert found == [{"n": before + 2, "m": 2}]
    Keeper(again).compact()
    assert Counter(again.table("adapters")["schema_version"].to_pylist()) == versions


def test_a_check_finds_only_that_its_files_are_fakes(old: Lake) -> None:
    checked = Keeper(old).verify()
    assert {fault.kind for fault in checked.faults} == FAKES
    assert checked.counts["adapters"] == old.table("adapters").num_rows


def test_a_video_of_it_can_be_deleted(old: Lake) -> None:
    video_id = old.table("adapters")["video_id"][0].as_py()
    assert Keeper(old).delete_video(video_id).num_rows["adapters"] > 0
    assert video_id not in old.table("adapters")["video_id"].to_pylist()
