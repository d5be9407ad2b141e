"""The interface: what decode refuses, what it leaves behind, and how much memory it takes."""

import multiprocessing
import os
from pathlib import Path

import pytest

from tests.core.conftest import VideoShelf
from tests.core.video_factory import as_stored, write_video
from video2lora_core.errors import UsageError
from video2lora_core.frames import SegmentFrames, decode, probe
from video2lora_core.pixels import PixelSpec, prepare
from video2lora_core.segments import Segment, tile

WHOLE = Segment(start_us=0, end_us=10_000_000)


def test_an_unknown_decoder_is_refused_by_name(videos: VideoShelf):
    with pytest.raises(UsageError, match=r"torchcodec.*pyav"):
        next(
            decode(
                videos("base.mp4"),
                [WHOLE],
                num_frames=4,
                prepare=as_stored,
                decoder="torchcodec",
            )
        )


def test_segments_out_of_order_are_refused(videos: VideoShelf):
    twice = [WHOLE, WHOLE]
    with pytest.raises(UsageError, match="sort the segments"):
        next(decode(videos("base.mp4"), twice, num_frames=4, prepare=as_stored))


def test_nothing_asked_for_opens_nothing(tmp_path: Path):
    assert not list(decode(tmp_path / "missing.mp4", [], num_frames=4, prepare=as_stored))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_pass_left_halfway_closes_its_file(videos: VideoShelf):
    path = videos("base.mp4")
    segments = tile(10_000_000, segment_us=1_000_000, min_tail_us=0)
    outcomes = decode(path, segments, num_frames=2, prepare=as_stored)
    next(outcomes)
    assert path in open_files()
    outcomes.close()  # type: ignore[attr-defined]
    assert path not in open_files()


def open_files() -> set[Path]:
    return {Path(f"/proc/self/fd/{fd}").resolve() for fd in os.listdir("/proc/self/fd")}  # noqa: PTH208


def test_frames_come_at_the_models_size(videos: VideoShelf):
    spec = PixelSpec(longest_edge_px=48, size_px=64)
    (outcome,) = decode(
        videos("base.mp4"), [WHOLE], num_frames=12, prepare=lambda frame: prepare(frame, spec)
    )
    assert isinstance(outcome, SegmentFrames)
    assert outcome.pixels.shape == (12, 3, 64, 64)


def peak_bytes_of_decoding(path: Path) -> int:
    """Decode a video in this process and return its peak resident memory."""
    segments = tile(probe(path).duration_us, segment_us=30_000_000, min_tail_us=10_000_000)
    spec = PixelSpec(longest_edge_px=192, size_px=256)
    for outcome in decode(
        path, segments, num_frames=12, prepare=lambda frame: prepare(frame, spec)
    ):
        assert isinstance(outcome, SegmentFrames)
    # Not getrusage: its maximum includes the parent's size at the fork.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_a_30_minute_video_takes_the_memory_of_a_2_minute_one(tmp_path: Path):
    peaks = []
    for minutes in (2, 30):
        path = write_video(tmp_path / f"{minutes}.mp4", fps=4, numbers=range(minutes * 60 * 4))
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(peak_bytes_of_decoding, (path,)))
    short, long = peaks
    assert long < 1.10 * short, f"{short / 1e6:.0f} MB for 2 minutes, {long / 1e6:.0f} MB for 30"
