"""A deleted video is gone from every table and view, stays so, and takes nothing else with it."""

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.deletion import set_deleted
from storage.identity import sha256_hex
from storage.keeper import Keeper
from storage.lake import Lake, open_lake
from storage.manifest import Source

Commit = Callable[..., str]
TOLD = ("adapters", "segments", "videos", "rejects", "answers", "compositions")


def answer(rows: Any, lake: Lake, **columns: Any) -> dict[str, Any]:
    place = {
        "run_id": "run",
        "recipe_id": rows.recipe_id,
        "answer_id": sha256_hex(str(columns).encode()),
    }
    said = {"question": "q", "answer": "a", "model_name": "m", "model_weights_sha256": "w"}
    counted = {"num_prompt_tokens": 1, "num_visual_tokens": 0, "num_new_tokens": 1}
    return {**place, **said, **counted, **columns}


@pytest.fixture
def two(lake: Lake, rows: Any, commit: Commit) -> Lake:
    """A lake of two videos, and compositions and answers over one, the other and both."""
    made = {}
    for unit, name in enumerate("vw"):
        adapters = [rows.adapter(lake, name, i) for i in range(2)]
        uri = f"/{name}.mp4"
        source = {**rows.source(uri, name), "metadata": '{"owner": "x"}', "given_id": name}
        reject = rows.reject(rows.adapter(lake, name, 2))
        tables = {"sources": [source], "videos": [rows.video(uri, name)], "rejects": [reject]}
        commit(lake, adapters, unit=unit, **tables)
        made[name] = adapters
    both = rows.composition([made["v"][0], made["w"][0]])
    place = {"run_id": "run", "recipe_id": rows.recipe_id, "shard": 0, "unit": 2}
    lake.append("compositions", [{**both, "video_id": None, **place}])
    answers = [
        answer(rows, lake, video_id=rows.video_id("v")),
        answer(rows, lake, video_id=rows.video_id("w")),
        answer(rows, lake, composition_id=both["composition_id"]),
        answer(rows, lake, parents=[made["v"][0]["adapter_sha256"]]),
        answer(rows, lake, parents=[made["w"][0]["adapter_sha256"]]),
    ]
    lake.append("answers", answers)
    return lake


def count(lake: Lake) -> dict[str, int]:
    return {table: lake.table(table).num_rows for table in TOLD}


def test_everything_about_a_video_goes_and_nothing_else(two: Lake, rows: Any) -> None:
    before = count(two)
    planned = Keeper(two).delete_video(rows.video_id("v"), is_dry_run=True)
    assert count(two) == before
    assert two.deleted_videos() == set()
    removed = Keeper(two).delete_video(rows.video_id("v"), reason="asked")
    assert removed.is_new
    assert removed.num_rows == {
        "adapters": 2, "segments": 2, "videos": 1, "rejects": 1, "compositions": 2, "answers": 3,
    }  # fmt: skip
    assert {t: n for t, n in planned.num_rows.items() if t not in ("compositions", "answers")} == {
        t: n for t, n in removed.num_rows.items() if t not in ("compositions", "answers")
    }
    assert {t: before[t] - removed.num_rows[t] for t in TOLD} == count(two)
    for table in TOLD:
        assert rows.video_id("v") not in two.table(table)["video_id"].to_pylist()
    assert two.query("select video_id from videos")[0].to_pylist() == [rows.video_id("w")]
    assert Keeper(two).verify().counts["videos"] == 1


def test_a_later_run_knows_a_deleted_file_without_reading_it(two: Lake, rows: Any) -> None:
    Keeper(two).delete_video(rows.video_id("v"))
    source = Source(uri="/v.mp4", size_bytes=10, version_token="1", given_id=None, metadata=None)
    known = two.known_videos([source], rows.recipe_id)
    assert known[source.source_id].video_id in two.deleted_videos()
    kept = {row["uri"]: row for row in two.table("sources").to_pylist()}
    assert [kept["/v.mp4"][name] for name in ("metadata", "given_id", "corpus")] == [None] * 3
    assert kept["/w.mp4"]["metadata"] == '{"owner": "x"}'


def test_deleting_again_changes_nothing_and_undoing_lets_it_be_made_again(
    two: Lake, rows: Any
) -> None:
    keeper, video_id = Keeper(two), rows.video_id("v")
    assert keeper.delete_video(video_id).is_new
    again = keeper.delete_video(video_id)
    assert (again.is_new, again.num_rows, again.num_sources_blanked) == (False, {}, 0)
    assert keeper.undelete_video(video_id)
    assert not keeper.undelete_video(video_id)
    assert two.deleted_videos() == set()
    assert keeper.delete_video(video_id).is_new
    assert two.table("tombstones").sort_by("sequence")["sequence"].to_pylist() == [1, 2, 3]


def test_what_a_unit_in_flight_commits_after_the_deletion_is_hidden_and_removed_later(
    two: Lake, rows: Any, commit: Commit
) -> None:
    late = [rows.adapter(two, "v", 0, content="late")]
    Keeper(two).delete_video(rows.video_id("v"))
    commit(two, late, run_id="other")
    assert two.query("select * from adapters where start_us = 0").num_rows == 1
    removed = Keeper(two).remove_rows_of_deleted()
    assert removed.num_rows["adapters"] == 1
    assert rows.video_id("v") not in two.table("adapters")["video_id"].to_pylist()
    assert Keeper(two).remove_rows_of_deleted().num_rows == {}


def test_the_files_of_a_deleted_video_go_and_the_others_stay(two: Lake, rows: Any) -> None:
    found = two.adapters_for([rows.video_id(name) for name in "vw"], rows.recipe_id)
    names = {name: found[rows.video_id(name)] for name in "vw"}
    keeper = Keeper(two)
    keeper.delete_video(rows.video_id("v"))
    for _ in range(2):
        keeper.collect_garbage(grace=timedelta(seconds=-1))
    for name, is_there in (("v", False), ("w", True)):
        for row in names[name]:
            assert Path(two.adapters.uri(row["adapter_sha256"])).exists() == is_there
    assert not [path for path in (Path(two.uri) / "garbage").rglob("*") if path.is_file()]


def test_a_purge_ends_the_past(two: Lake, rows: Any) -> None:
    then = two.versions()
    keeper = Keeper(two)
    keeper.delete_video(rows.video_id("v"))
    past = two.query("select count(*) as n from raw.videos", as_of=then)
    assert past.to_pylist() == [{"n": 2}]
    assert keeper.purge_table_files() > 0
    secret = rows.video_id("v").encode()
    for table in ("adapters", "videos", "segments"):
        for path in (Path(two.uri) / "catalog" / table).glob("*.parquet"):
            assert secret not in path.read_bytes()
    assert two.table("videos").num_rows == 1


def test_of_deletions_at_the_same_moment_one_writes_the_tombstone(lake: Lake) -> None:
    start = threading.Barrier(4)
    done: list[bool] = []

    def run() -> None:
        catalog = open_lake(lake.uri).catalog
        start.wait()
        done.append(set_deleted(catalog, "v", is_deleted=True))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, False, False, True]
    assert lake.table("tombstones")["sequence"].to_pylist() == [1]


def test_two_files_with_the_same_frames_share_adapters_and_only_one_is_deleted(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    first = rows.adapter(lake, "v", 0)
    twin = {**rows.adapter(lake, "w", 0), "adapter_sha256": first["adapter_sha256"]}
    commit(lake, [first])
    commit(lake, [twin], unit=1)
    keeper = Keeper(lake)
    keeper.delete_video(rows.video_id("v"))
    for _ in range(2):
        keeper.collect_garbage(grace=timedelta(seconds=-1))
    assert lake.adapters.get(first["adapter_sha256"])
    assert lake.table("compositions")["video_id"].to_pylist() == [rows.video_id("w")]
