"""The pipeline learns from the catalog what is done, known, rejected and deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CatalogError, VideoUnknownError
from storage.lake import Lake
from storage.lookups import KnownVideo
from storage.manifest import Source

Commit = Callable[..., str]
PLACE = {"run_id": "run", "recipe_id": "recipe-1", "shard": 0, "unit": 0}


def source(uri: str, token: str | None = "1") -> Source:
    return Source(uri=uri, size_bytes=10, version_token=token)


def test_done_are_the_segments_of_closed_units_under_the_recipe(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    first, second, third = (rows.adapter(lake, "v", i) for i in range(3))
    reject = [rows.reject(second)]
    segments = [rows.segment(first), rows.segment(second, reason="TRUNCATED")]
    commit(lake, [first], segments=segments, rejects=reject)
    commit(lake, [rows.adapter(lake, "w", 0)], unit=1)
    lake.append("segments", [{**PLACE, "unit": 2, **rows.segment(third)}])
    video_id = rows.video_id("v")
    expected = {(0, 30_000_000), (30_000_000, 60_000_000)}
    assert lake.done_segments(rows.recipe_id)[video_id] == expected
    assert lake.done_segments(rows.recipe_id, [video_id]) == {video_id: expected}
    assert lake.done_segments(rows.recipe_id, []) == {}
    assert lake.done_segments("other recipe") == {}


def test_what_others_rejected_is_not_done_for_a_run_that_tries_it_again(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    first, second = (rows.adapter(lake, "v", i) for i in range(2))
    segments = [rows.segment(first), rows.segment(second, reason="TRUNCATED")]
    commit(lake, [first], segments=segments, rejects=[rows.reject(second)])

    def done(run_id: str, *reasons: str) -> int:
        found = lake.done_segments(rows.recipe_id, retried=(run_id, reasons))
        return len(found[rows.video_id("v")])

    assert done("again", "TRUNCATED") == 1
    assert done("again", "NON_FINITE") == done("again") == 2
    assert done("run", "TRUNCATED") == 2


def test_an_unchanged_file_is_known_without_being_read(lake: Lake, rows: Any) -> None:
    lake.append("sources", [{**PLACE, **rows.source("/a.mp4", "a")}])
    lake.append("sources", [{**PLACE, **rows.source("/b.mp4", None)}])
    lake.append("sources", [{**PLACE, **rows.source("/c.mp4", "c")}])
    lake.append("videos", [{**PLACE, **rows.video("/a.mp4", "a")}])
    asked = [source("/a.mp4"), source("/b.mp4"), source("/c.mp4"), source("/d.mp4", None)]
    known = lake.known_videos(asked, rows.recipe_id)
    assert known == {
        asked[0].source_id: KnownVideo(video_id=rows.video_id("a"), duration_us=60_000_000),
        asked[2].source_id: KnownVideo(video_id=rows.video_id("c"), duration_us=None),
    }


@pytest.mark.parametrize(
    "changed",
    [
        Source(uri="/a.mp4", size_bytes=11, version_token="1"),
        Source(uri="/a.mp4", size_bytes=10, version_token="2"),
        Source(uri="/A.mp4", size_bytes=10, version_token="1"),
    ],
)
def test_a_changed_file_is_not_known(lake: Lake, rows: Any, changed: Source) -> None:
    lake.append("sources", [{**PLACE, **rows.source("/a.mp4", "a")}])
    assert lake.known_videos([changed], rows.recipe_id) == {}


def test_a_file_met_by_many_runs_is_known_once(lake: Lake, rows: Any) -> None:
    for _ in range(3):
        lake.append("sources", [{**PLACE, **rows.source("/a.mp4", "a")}])
    assert len(lake.known_videos([source("/a.mp4"), source("/a.mp4")], rows.recipe_id)) == 1


def test_adapters_come_in_order_of_time_one_per_segment(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    commit(lake, [rows.adapter(lake, "v", i) for i in (2, 0, 1)])
    commit(lake, [rows.adapter(lake, "v", 1, content="twice")], run_id="other")
    commit(lake, [rows.adapter(lake, "w", i) for i in (1, 0)], run_id="third")
    v, w = rows.video_id("v"), rows.video_id("w")
    found = lake.adapters_for([v, w, "nobody"], rows.recipe_id)
    starts = {video_id: [row["start_us"] for row in found[video_id]] for video_id in found}
    assert starts == {v: [0, 30_000_000, 60_000_000], w: [0, 30_000_000]}
    assert lake.adapters_for([w], rows.recipe_id) == {w: found[w]}
    assert lake.adapters_for([v], "other recipe") == {}
    assert lake.adapters_for([], rows.recipe_id) == {}


def test_the_latest_recipe_is_that_of_the_last_closed_unit(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    with pytest.raises(CatalogError, match="no unit was committed yet"):
        lake.latest_recipe()
    commit(lake, [], common={"recipe_id": "old", "recipe": '{"rank":8}'})
    assert lake.latest_recipe() == ("old", {"rank": 8})
    commit(lake, [], common={"recipe_id": "new"}, run_id="new")
    assert lake.latest_recipe() == ("new", {})


@pytest.fixture
def library(lake: Lake, rows: Any) -> Lake:
    for uri, video in (
        ("/films/cat.mp4", "cat"),
        ("/films/dog.mp4", "dog"),
        ("/x/dog.mp4", "wolf"),
    ):
        lake.append("videos", [{**PLACE, **rows.video(uri, video), "given_id": f"id-{video}"}])
    return lake


def test_a_video_is_found_by_id_prefix_uri_file_name_and_given_id(
    library: Lake, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cat = rows.video_id("cat")
    for text in (cat, cat[:6], "/films/cat.mp4", "cat.mp4", "films/cat.mp4", "id-cat"):
        assert library.resolve_video(text) == cat, text
    library.append("videos", [{**PLACE, **rows.video(str(tmp_path / "here.mp4"), "here")}])
    monkeypatch.chdir(tmp_path)
    assert library.resolve_video("./here.mp4") == rows.video_id("here")


def test_a_replaced_file_means_its_last_content(library: Lake, rows: Any) -> None:
    library.append("videos", [{**PLACE, **rows.video("/films/cat.mp4", "kitten")}])
    assert library.resolve_video("/films/cat.mp4") == rows.video_id("kitten")
    assert library.resolve_video(rows.video_id("cat")) == rows.video_id("cat")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat.mp5", r"not in the catalog; near matches: cat\.mp4 \([0-9a-f]{12}\)"),
        ("dog.mp4", r"2 videos fit \(.*\); give more digits or the whole URI"),
        ("", "not in the catalog"),
        ("0000", "not in the catalog; near matches: cat"),
    ],
)
def test_what_does_not_name_one_video_is_refused_with_near_matches(
    library: Lake, text: str, said: str
) -> None:
    with pytest.raises(VideoUnknownError, match=said):
        library.resolve_video(text)


def test_an_empty_catalog_says_so(lake: Lake) -> None:
    with pytest.raises(VideoUnknownError, match="the catalog holds no video"):
        lake.resolve_video("cat.mp4")


def test_a_deleted_video_is_not_found(library: Lake, rows: Any) -> None:
    stone = {"video_id": rows.video_id("cat"), "sequence": 1, "is_deleted": True}
    library.append("tombstones", [stone])
    with pytest.raises(VideoUnknownError, match="it was deleted"):
        library.resolve_video("cat.mp4")
