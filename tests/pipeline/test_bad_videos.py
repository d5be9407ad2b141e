"""Bad input: one line where nothing can be done, a rejects row where the rest goes on."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.api import open_lake as open_asked
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.errors import ManifestError
from storage.lake import open_lake
from tasks.plan_run import plan_run
from tasks.summary import RunSummary
from tests.core.conftest import VideoShelf
from video2lora_core.errors import UsageError

Run = Callable[..., RunSummary]

WHOLE = {
    "text.mp4": "NOT_MEDIA",
    "ffconcat.mp4": "NOT_MEDIA",
    "empty.mp4": "SRC_EMPTY",
    "audio.mp4": "NO_VIDEO_STREAM",
    "half.mp4": "NOT_MEDIA",
    "jpeg.mp4": "STILL_IMAGE",
}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One good video among bad ones; base.mp4 is what ffconcat.mp4 names."""
    directory = tmp_path_factory.mktemp("bad")
    shelf = VideoShelf(directory)
    for name in [*WHOLE, "faststart.mp4", "base.mp4"]:
        shelf(name)
    whole = (directory / "faststart.mp4").read_bytes()
    (directory / "faststart.mp4").unlink()
    (directory / "cut.mp4").write_bytes(whole[: len(whole) * 8 // 10])
    return directory


def query(tmp_path: Path, sql: str) -> list[dict[str, Any]]:
    return open_lake(tmp_path / "lake").query(sql).to_pylist()


def test_bad_videos_become_rejects_and_the_rest_goes_on(
    run: Run, bad: Path, tmp_path: Path, model: str
) -> None:
    summary = run(corpus=str(bad))
    found = query(
        tmp_path,
        "select parse_filename(uri) as name, reason from open_rejects where adapter_key is null",
    )
    assert {row["name"]: row["reason"] for row in found} == WHOLE
    # The good video's three segments, and the one that the truncated file still holds.
    assert summary.shards.num_segments == 4
    assert query(tmp_path, "select count(*) n from videos") == [{"n": 2}]
    with pytest.raises(UsageError, match="it was rejected, NOT_MEDIA"):
        open_asked(str(tmp_path / "lake"), model=model).pick("text.mp4")
    assert run(corpus=str(bad)).shards.num_videos == 0


def test_adapters_and_rejects_together_tile_a_truncated_video(
    run: Run, bad: Path, tmp_path: Path
) -> None:
    run(corpus=str(bad / "cut.mp4"))
    [row] = query(tmp_path, "select * from coverage")
    assert (row["num_adapters"], row["num_rejects"], row["missing_us"]) == (1, 2, 0)
    reasons = query(tmp_path, "select reason, start_us from open_rejects order by start_us")
    assert [row["reason"] for row in reasons] == ["TRUNCATED", "TRUNCATED"]
    spans = query(
        tmp_path, "select start_us, end_us, outcome, is_done from segments order by start_us"
    )
    assert [row["start_us"] for row in spans] == [0, 4_000_000, 8_000_000]
    assert [row["outcome"] for row in spans] == ["adapter", "reject", "reject"]
    assert all(row["is_done"] for row in spans)


def test_a_file_that_is_gone_is_tried_again(run: Run, corpus: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "corpus.jsonl"
    manifest.write_text('{"uri": "videos/short.mp4"}\n{"uri": "videos/late.mp4"}\n')
    first = run(corpus=str(manifest))
    assert (first.shards.num_segments, first.shards.num_rejects) == (2, 1)
    [reject] = query(tmp_path, "select reason, is_terminal from open_rejects")
    assert reject == {"reason": "SRC_NOT_FOUND", "is_terminal": False}
    still_gone = run(corpus=str(manifest))
    assert (still_gone.plan.num_done, still_gone.shards.num_rejects) == (1, 1)
    shutil.copyfile(corpus / "long.mp4", corpus / "late.mp4")
    assert run(corpus=str(manifest)).shards.num_segments == 3
    assert query(tmp_path, "select * from open_rejects") == []


def test_a_file_that_changed_after_planning_is_not_taken_for_the_planned_one(
    run: Run, corpus: Path, tmp_path: Path, model: str
) -> None:
    class Meddling(LocalEngine):
        def step(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
            result = super().step(function, *args, **kwargs)
            if function is plan_run:
                os.utime(corpus / "short.mp4", ns=(1, 1))
            return result

    config = InternalizeConfig(
        corpus=str(corpus / "short.mp4"), lake=str(tmp_path / "lake"), model=model
    )
    summary = internalize_corpus(config, Meddling())
    assert summary.shards.num_rejects == 1
    assert run(corpus=str(corpus / "short.mp4")).shards.num_segments == 2


@pytest.mark.parametrize("kind", ["missing", "empty", "no videos"])
def test_a_corpus_without_videos_is_an_error(run: Run, tmp_path: Path, kind: str) -> None:
    corpus = tmp_path / "other"
    if kind != "missing":
        corpus.mkdir()
    if kind == "no videos":
        (corpus / "notes.txt").write_text("words")
    with pytest.raises(ManifestError) as caught:
        run(corpus=str(corpus))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "lake").exists()
