"""A decoding child answers as a reader in this process would, and leaves nothing behind."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.decoding_child import ChildStartError, DecodingChild, InProcessReader
from tests.core.video_factory import DURATION_US, write_video
from tests.pipeline.decoding_readers import (
    SEGMENTS,
    assert_serves,
    is_alive,
    make,
    open_files,
)
from video2lora_core.errors import Reason, UsageError, VideoError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("whole") / "whole.mp4")


@pytest.fixture(scope="module")
def shared(whole: Path) -> Iterator[DecodingChild]:
    with make(DecodingChild) as child:
        yield child


def test_a_bad_container_keeps_its_hash(shared: DecodingChild, tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("words")
    for reader in (shared, make(InProcessReader)):
        with pytest.raises(VideoError) as caught:
            reader.meet(path, is_hashed=False)
        assert caught.value.reason == Reason.NOT_MEDIA
        assert len(caught.value.video_id or "") == 64
        with pytest.raises(VideoError) as caught:
            reader.meet(path, is_hashed=True)
        assert caught.value.video_id is None


def test_a_video_that_is_hashed_already_is_only_probed(shared: DecodingChild, whole: Path) -> None:
    facts = shared.meet(whole, is_hashed=True)
    assert facts.video_id is None
    assert facts.probe.duration_us == DURATION_US


@pytest.mark.parametrize(
    "kind", [InProcessReader, pytest.param(DecodingChild, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("max_file_bytes", 100, Reason.TOO_LARGE),
        ("max_pixels", 96 * 96 - 1, Reason.TOO_LARGE),
        ("max_duration_s", 5.0, Reason.DURATION_BOGUS),
    ],
)
def test_what_is_beyond_a_limit_is_refused_before_it_is_decoded(
    whole: Path, kind: type, limit: str, value: float, reason: Reason
) -> None:
    reader = make(kind, **{limit: value})
    try:
        with pytest.raises(VideoError) as caught:
            reader.meet(whole, is_hashed=False)
    finally:
        reader.close()
    assert caught.value.reason == reason
    assert f"expected at most {value:g}" in caught.value.detail


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_refused_at_once(shared: DecodingChild, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError) as caught:
        shared.meet(tmp_path / "pipe.mp4", is_hashed=False)
    assert caught.value.reason == Reason.SRC_IO


def test_a_call_that_is_wrong_is_not_blamed_on_the_video(
    shared: DecodingChild, whole: Path
) -> None:
    for reader in (shared, make(InProcessReader)):
        with pytest.raises(UsageError, match="sort the segments"):
            list(reader.decode(whole, [SEGMENTS[1], SEGMENTS[0]]))
    assert_serves(shared, whole)


def test_a_pass_left_halfway_ends_its_child_and_not_the_reader(
    shared: DecodingChild, whole: Path
) -> None:
    kept = shared.decode(whole, SEGMENTS)
    next(kept)
    before = shared.pid
    assert_serves(shared, whole)
    assert shared.pid != before
    del kept
    assert_serves(shared, whole)


def test_a_pass_whose_end_is_not_looked_for_keeps_its_child(
    shared: DecodingChild, whole: Path
) -> None:
    assert_serves(shared, whole)
    before = shared.pid
    kept = shared.decode(whole, SEGMENTS)
    for _ in SEGMENTS:
        next(kept)
    other = shared.decode(whole, SEGMENTS)
    next(other)
    del kept
    for _ in SEGMENTS[1:]:
        next(other)
    assert shared.pid == before


@pytest.mark.slow
def test_a_child_is_replaced_after_its_share_of_videos(whole: Path, tmp_path: Path) -> None:
    video = Path(shutil.copyfile(whole, tmp_path / "video.mp4"))
    with make(DecodingChild, videos_per_child=2) as child:
        pids = []
        for path in (whole, video, whole):
            child.meet(path, is_hashed=True)
            list(child.decode(path, SEGMENTS[:1]))
            pids.append(child.pid)
        assert child.num_started == 2
    assert pids[0] == pids[1] != pids[2]
    assert not any(is_alive(pid) for pid in pids)


def test_a_closed_reader_leaves_nothing_behind_and_says_so(whole: Path) -> None:
    before = open_files()
    child = make(DecodingChild)
    child.meet(whole, is_hashed=True)
    pid = child.pid
    child.close()
    child.close()
    assert not is_alive(pid)
    assert open_files() == before
    with pytest.raises(UsageError, match="closed"):
        child.meet(whole, is_hashed=True)


@pytest.mark.slow
def test_a_child_that_cannot_start_is_not_blamed_on_the_video(whole: Path) -> None:
    class Unstartable(DecodingChild):
        program = "tests.pipeline.no_such_module"

    with pytest.raises(ChildStartError, match="could not start"):
        make(Unstartable).meet(whole, is_hashed=True)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_child_holds_no_file_but_its_pipe_and_loads_no_model(
    shared: DecodingChild, whole: Path
) -> None:
    assert_serves(shared, whole)
    directory = Path(f"/proc/{shared.pid}")
    held = sorted(str(file.readlink()) for file in (directory / "fd").iterdir())
    assert held[:3] == ["/dev/null"] * 3
    assert [name.split(":")[0] for name in held[3:]] == ["socket"]
    maps = (directory / "maps").read_text()
    assert "libtorch" in maps
    for library in ("tokenizers", "deltalake", "duckdb"):
        assert library not in maps
    environment = (directory / "environ").read_text().split("\0")
    assert {"OMP_NUM_THREADS=1", "HF_HUB_OFFLINE=1", "CUDA_VISIBLE_DEVICES="} <= set(environment)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_child_is_told_no_credentials(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "PREFECT_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "not-for-children")
    with make(DecodingChild) as child:
        child.meet(whole, is_hashed=True)
        environment = Path(f"/proc/{child.pid}/environ").read_bytes()
    assert b"OMP_NUM_THREADS=1" in environment
    assert b"not-for-children" not in environment
