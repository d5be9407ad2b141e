"""The views choose the rows that count."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from storage.errors import LakeError
from storage.lake import Lake
from storage.schemas import TABLES, table_schema
from storage.views import describe_views, publish

Commit = Callable[..., str]
ONE = {"unit": 0, "shard": 0, "run_id": "run", "recipe_id": "recipe-1"}


def select(lake: Lake, sql: str) -> list[dict[str, Any]]:
    return lake.query(sql).to_pylist()


def count(lake: Lake, views: list[str]) -> list[int]:
    counts = ", ".join(f"(select count(*) from {view}) as {view}" for view in views)
    return list(select(lake, f"select {counts}")[0].values())


def test_a_key_made_twice_is_shown_once_even_with_equal_bytes(lake: Lake, rows: Any) -> None:
    adapter = rows.adapter(lake, "v", 0)
    lake.append("adapters", [{**ONE, **adapter}, {**ONE, **adapter, "run_id": "again"}])
    assert len(select(lake, "from adapters")) == 2
    assert len(select(lake, "from adapters_latest")) == 1


def test_a_videos_last_row_is_shown(lake: Lake, rows: Any) -> None:
    lake.append("videos", [{**ONE, **rows.video("/v.mp4", "v"), "codec": "old"}])
    lake.append("videos", [{**ONE, **rows.video("/w.mp4", "v"), "codec": "new"}])
    assert select(lake, "select codec from videos") == [{"codec": "new"}]


def test_coverage_counts_adapters_and_rejects_in_microseconds(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    adapters = [rows.adapter(lake, "v", i) for i in range(3)]
    video = rows.video("/v.mp4", "v", num_segments=4)
    rejects = [rows.reject(adapters[2])]
    segments = [rows.segment(row) for row in adapters[:2]]
    segments.append(rows.segment(adapters[2], reason="TRUNCATED"))
    commit(lake, adapters[:2], videos=[video], rejects=rejects, segments=segments)
    (covered,) = select(lake, "from coverage")
    names = ("num_segments", "num_adapters", "num_rejects", "adapted_us", "rejected_us")
    assert [covered[name] for name in names] == [4, 2, 1, 60_000_000, 30_000_000]
    assert covered["missing_us"] == 30_000_000
    commit(lake, [rows.adapter(lake, "v", 3)], unit=1)
    assert select(lake, "select missing_us from coverage") == [{"missing_us": 0}]


def test_a_reject_is_open_until_its_segment_succeeds(lake: Lake, rows: Any, commit: Commit) -> None:
    adapter = rows.adapter(lake, "v", 0)
    for attempt in (1, 2):
        lake.append("rejects", [{**ONE, **rows.reject(adapter), "attempt": attempt}])
    assert select(lake, "select attempt from open_rejects") == [{"attempt": 2}]
    commit(lake, [adapter])
    assert select(lake, "from open_rejects") == []
    assert len(select(lake, "from rejects")) == 2


def test_a_whole_videos_reject_is_open_until_the_video_is_read(lake: Lake, rows: Any) -> None:
    source = rows.source("/v.mp4", None)
    reject = {**ONE, **source, "reason": "SRC_IO", "attempt": 1, "is_terminal": False}
    lake.append("rejects", [reject])
    lake.append("rejects", [{**reject, "attempt": 2}])
    lake.append("rejects", [{**reject, **rows.source("/w.mp4", None)}])
    opened = select(lake, "select uri, attempt from open_rejects order by uri")
    assert opened == [{"uri": "/v.mp4", "attempt": 2}, {"uri": "/w.mp4", "attempt": 1}]
    lake.append("videos", [{**ONE, **rows.video("/v.mp4", "v")}])
    assert select(lake, "select uri from open_rejects") == [{"uri": "/w.mp4"}]


def test_the_composition_of_most_segments_is_the_videos(lake: Lake, rows: Any) -> None:
    adapters = [rows.adapter(lake, "v", i) for i in range(3)]
    lake.append("adapters", [{**ONE, **row} for row in adapters])
    for parts in (adapters[:2], adapters, adapters[:1]):
        lake.append("compositions", [{**ONE, **rows.composition(parts)}])
    assert select(lake, "select num_segments from compositions_latest") == [{"num_segments": 3}]


def test_a_composition_of_several_videos_is_listed_but_no_videos_latest(
    lake: Lake, rows: Any
) -> None:
    both = [rows.adapter(lake, name, 0) for name in "vw"]
    lake.append("adapters", [{**ONE, **row} for row in both])
    lake.append("compositions", [{**ONE, **rows.composition(both), "video_id": None}])
    assert len(select(lake, "from compositions")) == 1
    assert select(lake, "from compositions_latest") == []


def test_a_deleted_video_is_in_no_view_and_comes_back_when_restored(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    answer = {"run_id": "run", "recipe_id": "recipe-1", "answer_id": "a", "question": "?"}
    answer |= {"answer": "!", "model_name": "m", "model_weights_sha256": "w"}
    answer |= {"num_prompt_tokens": 1, "num_visual_tokens": 0, "num_new_tokens": 1}
    for unit, name in enumerate("vw"):
        row = rows.adapter(lake, name, 0)
        extra = {"sources": [rows.source(f"/{name}.mp4", name)]}
        extra["videos"] = [rows.video(f"/{name}.mp4", name)]
        extra["rejects"] = [rows.reject(rows.adapter(lake, name, 1))]
        extra["answers"] = [{**answer, "video_id": rows.video_id(name)}]
        commit(lake, [row], unit=unit, **extra)
    parts = [rows.adapter(lake, name, 0) for name in "vw"]
    lake.append("compositions", [{**ONE, **rows.composition(parts), "video_id": None}])
    views = [
        *("adapters", "adapters_latest", "sources", "videos", "segments", "rejects", "coverage"),
        *("open_rejects", "compositions_latest", "answers"),
    ]
    assert count(lake, ["compositions", *views]) == [3] + [2] * len(views)
    stone = {"video_id": rows.video_id("v"), "sequence": 1, "is_deleted": True, "reason": "asked"}
    lake.append("tombstones", [stone])
    assert count(lake, ["compositions", *views]) == [1] + [1] * len(views)
    assert lake.deleted_videos() == {rows.video_id("v")}
    assert lake.adapters_for([rows.video_id("v")], rows.recipe_id) == {}
    lake.append("tombstones", [{**stone, "sequence": 2, "is_deleted": False}])
    assert count(lake, views) == [2] * len(views)
    assert lake.deleted_videos() == set()


def test_cost_is_told_per_hour_of_video(lake: Lake, rows: Any, commit: Commit) -> None:
    adapters = [rows.adapter(lake, "v", i) for i in range(120)]
    commit(lake, adapters, runs=[{"wall_s": 120.0}])
    (cost,) = select(lake, "from cost_per_video_hour")
    assert (cost["video_hours"], cost["device_s_per_video_hour"]) == (1.0, 60.0)
    assert (cost["decode_s_per_video_hour"], cost["wall_s_per_video_hour"]) == (30.0, 120.0)
    assert cost["num_segments"] == 120


def test_a_run_that_covered_nothing_has_no_cost_per_hour(lake: Lake, commit: Commit) -> None:
    commit(lake, [])
    assert select(lake, "select device_s_per_video_hour as s from cost_per_video_hour") == [
        {"s": None}
    ]


def test_recipes_are_listed_with_their_content(lake: Lake, rows: Any, commit: Commit) -> None:
    commit(lake, [rows.adapter(lake, "v", 0)], common={"recipe": '{"a":1}'})
    commit(lake, [rows.adapter(lake, "v", 1)], unit=1)
    (recipe,) = select(lake, "from recipes")
    assert (recipe["recipe"], recipe["num_adapters"], recipe["num_runs"]) == ('{"a":1}', 2, 1)


def test_every_view_of_an_empty_lake_has_its_columns(lake: Lake) -> None:
    with duckdb.connect(str(lake.publish_views()), read_only=True) as reader:
        for name, _, columns in describe_views():
            found = reader.execute(f"select * from {name}")
            assert [column[0] for column in found.description] == [name for name, _ in columns]
            assert found.fetchall() == []
        for table in TABLES:
            found = reader.execute(f"select * from raw.{table}")
            assert [column[0] for column in found.description] == table_schema(table).names


def test_the_published_file_opens_anywhere_and_follows_the_lake(
    lake: Lake, rows: Any, commit: Commit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = lake.publish_views()
    assert path is not None
    monkeypatch.chdir(tmp_path)
    with duckdb.connect(path, read_only=True) as reader:
        assert reader.execute("select count(*) from adapters_latest").fetchall() == [(0,)]
        commit(lake, [rows.adapter(lake, "v", 0)])
        assert lake.publish_views() == path
        assert reader.execute("select count(*) from adapters_latest").fetchall() == [(0,)]
    with duckdb.connect(path, read_only=True) as reader:
        assert reader.execute("select count(*) from adapters_latest").fetchall() == [(1,)]
        assert reader.execute("select count(*) from raw.runs").fetchall() == [(1,)]
    assert [p.name for p in Path(lake.uri).iterdir() if "tmp" in p.name] == []


def test_the_published_file_is_in_the_oldest_format_and_holds_no_rows(lake: Lake) -> None:
    path = Path(str(lake.publish_views()))
    # Bytes 12 to 20 of a DuckDB file: its storage version; 64 is that of 0.9 to 1.1.
    assert int.from_bytes(path.read_bytes()[12:20], "little") == 64
    with duckdb.connect(str(path), read_only=True) as reader:
        assert reader.execute("select count(*) from duckdb_tables()").fetchall() == [(0,)]


def test_views_that_cannot_be_published_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"missing/catalog.duckdb: cannot publish the views"):
        publish(tmp_path / "missing" / "catalog.duckdb", dict.fromkeys(TABLES, ()))
