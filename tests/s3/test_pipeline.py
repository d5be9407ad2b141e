"""The whole pipeline on s3://: corpus and lake on a server, nothing on this machine's disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.api import open_lake
from storage.keeper import Keeper
from storage.lake import Lake
from storage.remote import file_system
from tasks import source_file
from tests.s3.checks import check_whole

NUM_SEGMENTS = 5


@pytest.mark.slow
def test_a_corpus_on_s3_becomes_a_lake_on_s3_and_a_second_run_does_nothing(
    run: Callable[..., Any], root: str, videos: str, lake_of: Callable[[], Lake], direct: Any
) -> None:
    first = run()
    assert first.published.is_first
    assert (first.shards.num_segments, first.shards.num_rejects) == (NUM_SEGMENTS, 1)
    lake = lake_of()
    check_whole(lake, num_segments=NUM_SEGMENTS)
    (reject,) = lake.query("select reason, uri from open_rejects").to_pylist()
    assert reject["uri"] == f"{videos}/bad.mp4"
    again = run()
    assert (again.plan.num_shards, again.shards.num_files_read) == (0, 0)
    assert again.shards.num_segments == 0
    files = file_system(videos, direct)
    files.copy(f"{videos}/long.mp4", f"{videos}/copy.mp4")
    more = run()
    assert more.shards.num_segments == 0, "one video under two URIs is one video"
    check_whole(lake_of(), num_segments=NUM_SEGMENTS)


def test_a_lake_on_s3_is_queried_and_asked_without_a_download(
    run: Callable[..., Any],
    root: str,
    model: str,
    direct: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run()
    monkeypatch.setenv("HOME", str(tmp_path))  # where DuckDB would put an extension
    lake = open_lake(f"{root}/lake", model=model)
    assert lake.sql("select count(*) as n from videos").to_pylist() == [{"n": 2}]
    assert list(tmp_path.rglob("*.duckdb_extension*")) == []
    answer = lake.ask("How many objects?", video="long.mp4", start_s=5, end_s=9, max_new_tokens=2)
    assert answer.num_visual_tokens == 0
    sha256s = [row["adapter_sha256"] for row in lake.pick("short.mp4").rows]
    assert len(sha256s) == 2
    assert lake.compose(sha256s) is not None


@pytest.mark.slow
def test_a_run_with_another_dtype_takes_kept_visual_tokens_and_fetches_no_video(
    run: Callable[..., Any], lake_of: Callable[[], Lake], direct: Any, monkeypatch: Any
) -> None:
    first = run(keep_visual_tokens=True)
    assert (first.shards.num_segments, first.shards.num_segments_recalled) == (NUM_SEGMENTS, 0)
    fetched: list[str] = []
    fetch = source_file.fetch

    def fetch_noted(uri: str, *rest: Any, **options: Any) -> None:
        fetched.append(uri.rpartition("/")[2])
        fetch(uri, *rest, **options)

    monkeypatch.setattr(source_file, "fetch", fetch_noted)
    second = run(keep_visual_tokens=True, stored_dtype="float32")
    assert second.shards.num_segments_recalled == second.shards.num_segments == NUM_SEGMENTS
    assert (second.shards.num_files_decoded, fetched) == (0, ["bad.mp4"])
    video_id = lake_of().resolve_video("short.mp4")
    assert Keeper(lake_of()).verify().counts["visual_tokens"] == NUM_SEGMENTS
    assert Keeper(lake_of()).delete_video(video_id).num_visual_tokens == 2
