"""Keyframe snapping: the nearest key frame for every instant, and no other packet decoded."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.conftest import VideoShelf
from tests.core.video_factory import (
    FPS,
    H264,
    NUM_FRAMES,
    as_stored,
    read_number,
    write_video,
)
from video2lora_core.container import open_video
from video2lora_core.errors import Reason, UsageError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode, probe
from video2lora_core.full_decoding import PacketCounts, decoded
from video2lora_core.keyframes import key_frames
from video2lora_core.picking import pick
from video2lora_core.segments import Segment, frame_times, tile

SECOND = 1_000_000
KEYS = [0, 16, 32, 48, 64]


def snapped(path: Path, segments: Sequence[Segment], *, num_frames: int) -> list[SegmentFrames]:
    found = list(
        decode(path, segments, num_frames=num_frames, prepare=as_stored, sampling="keyframes")
    )
    assert [outcome.segment for outcome in found] == list(segments)
    assert all(isinstance(outcome, SegmentFrames) for outcome in found), found
    return [outcome for outcome in found if isinstance(outcome, SegmentFrames)]


def key_numbers(path: Path) -> list[int]:
    """Ask FFmpeg's decoder which frames are key frames."""
    with av.open(str(path)) as container:
        return [number for number, frame in enumerate(container.decode(video=0)) if frame.key_frame]


def nearest(t_us: int, keys: Sequence[int] = KEYS) -> int:
    """The rule in a line: the nearest, and of two the earlier."""
    return min(keys, key=lambda number: (abs(number * SECOND // FPS - t_us), number))


@pytest.mark.parametrize(
    "name",
    [
        "base.mp4",
        "fragmented.mp4",
        "base.mkv",
        "base.ts",
        "bare.h264",
        "vp9.webm",
        "vp9.ivf",
        "hevc.mp4",
        "tenbit.mp4",
        "av1.mp4",
        "mpeg4.avi",
        "wmv2.wmv",
        "flv1.flv",
        "start5.mp4",
        "start5.mkv",
        "start5.ts",
    ],
)
def test_every_instant_is_shown_the_nearest_key_frame(videos: VideoShelf, name: str):
    path = videos(name)
    segments = tile(probe(path).duration_us, segment_us=5 * SECOND // 2, min_tail_us=SECOND)
    keys = key_numbers(path)
    assert keys[0] == 0
    assert len(keys) >= 5
    for outcome in snapped(path, segments, num_frames=4):
        expected = [nearest(t_us, keys) for t_us in outcome.times_us]
        assert [read_number(frame) for frame in outcome.pixels] == expected
        assert outcome.num_unique_frames == len(set(expected))
        lags = [
            abs(t_us - n * SECOND // FPS)
            for t_us, n in zip(outcome.times_us, expected, strict=True)
        ]
        assert outcome.max_lag_us == max(lags)
        assert outcome.flags == ()


@given(
    starts=st.lists(st.integers(0, 9_999_999), min_size=2, max_size=6, unique=True),
    num_frames=st.integers(1, 9),
)
def test_any_instants_are_shown_the_nearest_key_frame(
    videos: VideoShelf, starts: list[int], num_frames: int
):
    edges = sorted(starts)
    segments = [
        Segment(start_us=a, end_us=b) for a, b in zip(edges[::2], edges[1::2], strict=False)
    ]
    for outcome in snapped(videos("base.mp4"), segments, num_frames=num_frames):
        shown = [read_number(frame) for frame in outcome.pixels]
        assert shown == [nearest(t_us) for t_us in outcome.times_us]


@pytest.mark.parametrize("name", ["base.mp4", "base.mkv", "vp9.webm", "base.ts"])
def test_only_the_key_packets_that_are_needed_are_decoded(videos: VideoShelf, name: str):
    path = videos(name)
    first = PacketCounts()
    with open_video(path) as (container, stream):
        next(decoded(container, stream, counts=first))
    segments = [
        Segment(start_us=3 * SECOND, end_us=5 * SECOND),
        Segment(start_us=7 * SECOND, end_us=10 * SECOND),
    ]
    wanted_us = [t_us for s in segments for t_us in frame_times(s, num_frames=3)]
    needed = {nearest(t_us) for t_us in wanted_us} - {0}
    counts = PacketCounts()
    items = key_frames(path, wanted_us=wanted_us, counts=counts)
    list(pick(items, segments, num_frames=3, prepare=as_stored))
    assert counts.num_read == NUM_FRAMES
    assert counts.num_decoded == first.num_decoded + len(needed)


def test_a_video_with_one_key_frame_gives_one_picture_and_says_so(tmp_path: Path):
    path = write_video(tmp_path / "one key.mp4", options={**H264, "g": "250"})
    (outcome,) = snapped(path, [Segment(start_us=0, end_us=10 * SECOND)], num_frames=5)
    assert [read_number(frame) for frame in outcome.pixels] == [0] * 5
    assert outcome.num_unique_frames == 1
    assert outcome.max_lag_us == 9 * SECOND


def test_a_video_of_key_frames_gives_what_is_nearest_in_time(videos: VideoShelf):
    (outcome,) = snapped(
        videos("prores.mov"), [Segment(start_us=0, end_us=10 * SECOND)], num_frames=7
    )
    expected = [nearest(t_us, range(NUM_FRAMES)) for t_us in outcome.times_us]
    assert [read_number(frame) for frame in outcome.pixels] == expected


def test_recovery_points_are_key_frames_too(videos: VideoShelf):
    (outcome,) = snapped(
        videos("opengop.mp4"), [Segment(start_us=0, end_us=10 * SECOND)], num_frames=4
    )
    assert [read_number(frame) for frame in outcome.pixels] == [0, 40, 40, 40]


def test_a_video_that_begins_by_an_edit_list_shows_its_first_frame(videos: VideoShelf):
    path = videos("editlist.mp4")
    (whole,) = tile(probe(path).duration_us, segment_us=10 * SECOND, min_tail_us=0)
    (outcome,) = snapped(path, [whole], num_frames=8)
    shown = [read_number(frame) for frame in outcome.pixels]
    at = [26 + n for n in (0, 6, 22, 38)]
    assert shown == [
        26 + nearest(t_us, [number - 26 for number in at]) for t_us in outcome.times_us
    ]


def test_a_pause_in_the_timestamps_is_flagged_and_distant_key_frames_are_none(
    videos: VideoShelf, tmp_path: Path
):
    segments = tile(probe(videos("gap.mp4")).duration_us, segment_us=5 * SECOND, min_tail_us=0)
    found = snapped(videos("gap.mp4"), segments, num_frames=2)
    flagged = [outcome.flags == (Reason.PTS_DISCONTINUITY,) for outcome in found]
    assert flagged[0]  # the pause begins before its end
    assert not flagged[-1]
    path = write_video(
        tmp_path / "slow.mp4", fps=1, numbers=range(100), options={**H264, "g": "40"}
    )
    for outcome in snapped(
        path, tile(100 * SECOND, segment_us=25 * SECOND, min_tail_us=0), num_frames=2
    ):
        assert outcome.flags == ()


@pytest.mark.parametrize("name", ["half_faststart.mp4", "half.mkv"])
def test_a_truncated_video_loses_the_same_segments(videos: VideoShelf, name: str):
    path = videos(name)
    segments = tile(probe(path).duration_us, segment_us=5 * SECOND // 2, min_tail_us=SECOND)
    reasons = [
        [
            outcome.reason if isinstance(outcome, SegmentReject) else None
            for outcome in decode(
                path, segments, num_frames=4, prepare=as_stored, sampling=sampling
            )
        ]
        for sampling in ("centres", "keyframes")
    ]
    assert reasons[0] == reasons[1]
    assert Reason.TRUNCATED in reasons[1]


@pytest.mark.parametrize("name", ["noise.mp4", "zeros_inside.mp4", "zeros_tail.mp4", "noise.mkv"])
def test_a_damaged_key_frame_is_never_shown(videos: VideoShelf, name: str):
    path = videos(name)
    segments = tile(probe(path).duration_us, segment_us=5 * SECOND // 2, min_tail_us=SECOND)
    intact = {n: as_stored_of(videos("base.mp4"), n) for n in KEYS}
    for outcome in decode(path, segments, num_frames=4, prepare=as_stored, sampling="keyframes"):
        if isinstance(outcome, SegmentFrames):
            for frame in outcome.pixels:
                np.testing.assert_array_equal(frame, intact[read_number(frame)])


def as_stored_of(path: Path, number: int) -> np.ndarray:
    at = Segment(start_us=number * SECOND // FPS, end_us=number * SECOND // FPS + 1000)
    (outcome,) = decode(path, [at], num_frames=1, prepare=as_stored)
    assert isinstance(outcome, SegmentFrames)
    return np.asarray(outcome.pixels[0])


def test_what_cannot_snap_says_so(videos: VideoShelf):
    whole = [Segment(start_us=0, end_us=SECOND)]
    how = {"num_frames": 1, "prepare": as_stored}
    with pytest.raises(UsageError, match=r"decord.*keyframes"):
        next(decode(videos("base.mp4"), whole, decoder="decord", sampling="keyframes", **how))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"corners.*centres"):
        next(decode(videos("base.mp4"), whole, sampling="corners", **how))  # type: ignore[arg-type]
