"""Sparse decoding gives what full decoding gives, bit for bit, from fewer packets."""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.core.conftest import VideoShelf
from tests.core.video_factory import H264, NUM_FRAMES, VP9, mangled, write_video
from video2lora_core import packet_groups, sparse_decoding
from video2lora_core.errors import VideoError
from video2lora_core.full_decoding import PacketCounts
from video2lora_core.picking import pick
from video2lora_core.probe import probe
from video2lora_core.pyav_decoder import decoded_frames
from video2lora_core.segment_frames import SegmentFrames, SegmentReject
from video2lora_core.segments import Segment, frame_times, tile

SECOND = 1_000_000
Outcomes = list[SegmentFrames | SegmentReject]
Plan = Callable[[int], tuple[Sequence[Segment], int]]

PLANS: dict[str, Plan] = {
    "4 frames of each 2.5 s": lambda us: (
        tile(us, segment_us=5 * SECOND // 2, min_tail_us=SECOND),
        4,
    ),
    "12 frames of each 10 s": lambda us: (tile(us, segment_us=10 * SECOND, min_tail_us=SECOND), 12),
    "one frame of each third": lambda us: (
        [Segment(start_us=us * n // 3, end_us=us * n // 3 + max(1, us // 6)) for n in range(3)],
        1,
    ),
    "8 frames of the end": lambda us: ([Segment(start_us=us * 5 // 6, end_us=us)], 8),
}

# Of the shelf, in the containers and codecs that are decoded sparsely.
SPARSE = [
    "base.mp4",
    "faststart.mp4",
    "fragmented.mp4",
    "base.mkv",
    "vp9.webm",
    "noduration.webm",
    "opengop.mp4",
    "av1.mp4",
    "h264_422_10.mp4",
    "start5.mp4",
    "start5.mkv",
    "vfr.mp4",
    "gap.mp4",
    "paused.mkv",
    "odd.webm",
    "odd444.mp4",
    "fps120.mp4",
    "editlist.mp4",
    "rotated90.mp4",
    "one.mp4",
    "slow.mkv",
    "long_claim.mkv",
    "wide_pixels.mp4",
]
OTHERS = [
    "base.ts",
    "bare.h264",
    "vp9.ivf",
    "hevc.mp4",
    "prores.mov",
    "mpeg2.mpg",
    "resized.h264",
]
DAMAGED = [
    "half_faststart.mp4",
    "half.mkv",
    "half_fragmented.mp4",
    "noise.mp4",
    "noise.mkv",
    "zeros_inside.mp4",
    "zeros_tail.mp4",
    "zeros_early.mp4",
    "noise.webm",
    "noise_head.mkv",
    "noise_head.mp4",
    "sprinkled.mp4",
]

X264 = {"preset": "veryfast", "sc_threshold": "0"}
ODD: dict[str, tuple[str, str, Mapping[str, str]]] = {
    "pyramid.mp4": ("libx264", "yuv420p", {**X264, "g": "24", "bf": "5", "b-pyramid": "normal"}),
    "one group.mp4": ("libx264", "yuv420p", {**X264, "g": "250", "bf": "3"}),
    "keys only.mp4": ("libx264", "yuv420p", {**X264, "g": "1"}),
    "no b-frames.mkv": ("libx264", "yuv420p", {**X264, "g": "16", "bf": "0"}),
    "interlaced.mp4": ("libx264", "yuv420p", {**X264, "g": "16", "x264-params": "tff=1"}),
    "no keys.mp4": ("libx264", "yuv420p", {**X264, "g": "16", "x264-params": "intra-refresh=1"}),
    "with headers.mp4": (
        "libx264",
        "yuv420p",
        {**X264, "g": "16", "bf": "2", "x264-params": "repeat-headers=1"},
    ),
    "hidden frames.webm": (
        "libvpx-vp9",
        "yuv420p",
        {"cpu-used": "5", "g": "16", "auto-alt-ref": "1", "lag-in-frames": "16"},
    ),
    "ten bits.mkv": ("libx264", "yuv420p10le", {**X264, "g": "16", "bf": "2"}),
    "vp9.mp4": ("libvpx-vp9", "yuv420p", VP9),
}


def small(frame: np.ndarray) -> np.ndarray:
    """Cut frames to what those of every file have."""
    return np.ascontiguousarray(frame[:90, :90].transpose(2, 0, 1))


def outcomes(path: Path, plan: Plan, *, is_sparse: bool) -> tuple[Outcomes, PacketCounts]:
    segments, num_frames = plan(probe(path).duration_us)
    wanted_us = [t_us for s in segments for t_us in frame_times(s, num_frames=num_frames)]
    counts = PacketCounts()
    items = decoded_frames(path, wanted_us=wanted_us if is_sparse else None, counts=counts)
    return list(pick(items, segments, num_frames=num_frames, prepare=small)), counts


def assert_alike(found: Outcomes, expected: Outcomes) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, SegmentReject) or isinstance(other, SegmentReject):
            assert one == other
            continue
        np.testing.assert_array_equal(one.pixels, other.pixels)
        for field in {field.name for field in fields(SegmentFrames)} - {"pixels"}:
            assert getattr(one, field) == getattr(other, field), field


def assert_exact(path: Path, plan: Plan) -> PacketCounts:
    found, counts = outcomes(path, plan, is_sparse=True)
    expected, all_counts = outcomes(path, plan, is_sparse=False)
    assert_alike(found, expected)
    assert all_counts.num_decoded == all_counts.num_read
    return counts


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    directory = tmp_path_factory.mktemp("odd")

    def make(name: str) -> Path:
        codec, pixel_format, options = ODD[name]
        path = directory / name
        return (
            path
            if path.exists()
            else write_video(path, codec=codec, options=options, pixel_format=pixel_format)
        )

    return make


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", SPARSE)
def test_intact_videos_give_the_same_from_fewer_packets(videos: VideoShelf, name: str, plan: str):
    counts = assert_exact(videos(name), PLANS[plan])
    if counts.num_read > 6:
        assert counts.num_decoded < counts.num_read


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ODD)
def test_odd_groups_of_pictures_give_the_same(odd: Callable[[str], Path], name: str, plan: str):
    counts = assert_exact(odd(name), PLANS[plan])
    assert counts.num_decoded <= counts.num_read


@pytest.mark.parametrize("name", OTHERS)
def test_what_was_not_proven_is_decoded_whole(videos: VideoShelf, name: str):
    counts = assert_exact(videos(name), PLANS["4 frames of each 2.5 s"])
    assert counts.num_decoded == counts.num_read


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_videos_end_as_in_full_decoding(videos: VideoShelf, name: str):
    assert_exact(videos(name), PLANS["4 frames of each 2.5 s"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "base.mkv", "vp9.webm"])
def test_a_mangled_video_never_loses_more_than_in_full_decoding(
    videos: VideoShelf, tmp_path: Path, name: str
):
    """Damage that nobody looks at may be missed; a segment that full decoding gives is given."""
    content = videos.content(name)
    for seed in range(25):
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(mangled(content, random.Random(seed)))
        for plan in PLANS.values():
            with suppress(VideoError):
                found, _ = outcomes(path, plan, is_sparse=True)
                expected, _ = outcomes(path, plan, is_sparse=False)
                for one, other in zip(found, expected, strict=True):
                    if isinstance(one, SegmentReject):
                        assert isinstance(other, SegmentReject), (seed, one)
                        assert one.reason == other.reason


@pytest.mark.parametrize("name", ["base.mp4", "base.mkv", "vp9.webm", "editlist.mp4"])
@pytest.mark.parametrize("limit", ["packets", "bytes", "held"])
def test_a_group_too_large_to_hold_is_decoded_whole(
    videos: VideoShelf, monkeypatch: pytest.MonkeyPatch, name: str, limit: str
):
    if limit == "packets":
        monkeypatch.setattr(packet_groups, "MAX_GROUP_PACKETS", 5)
    elif limit == "bytes":
        monkeypatch.setattr(packet_groups, "MAX_GROUP_BYTES", 700)
    else:
        monkeypatch.setattr(sparse_decoding, "MAX_HELD_BYTES", 96 * 96 * 3)
    for plan in PLANS.values():
        assert_exact(videos(name), plan)


def test_damage_behind_a_group_too_large_to_hold_is_seen(
    videos: VideoShelf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(packet_groups, "MAX_GROUP_PACKETS", 5)
    for name in DAMAGED:
        assert_exact(videos(name), PLANS["4 frames of each 2.5 s"])


def test_frames_that_no_other_refers_to_are_left_out(tmp_path: Path):
    options = {**H264, "g": "48", "bf": "3", "b-pyramid": "none", "b_strategy": "0"}
    path = write_video(tmp_path / "b.mp4", options=options, fps=24, numbers=range(240))
    counts = assert_exact(path, PLANS["12 frames of each 10 s"])
    assert counts.num_read == 240
    assert counts.num_decoded <= 0.75 * 240


def test_groups_that_nobody_looks_into_are_not_decoded(tmp_path: Path):
    """Key frames are 2 s apart, and a frame is wanted every 10 s."""
    path = write_video(tmp_path / "far.mp4", fps=4, options={**H264, "g": "8"}, numbers=range(240))
    counts = assert_exact(
        path, lambda us: (tile(us, segment_us=10 * SECOND, min_tail_us=SECOND), 1)
    )
    assert counts.num_read == 240
    assert counts.num_decoded <= 0.35 * 240


def test_the_start_of_a_video_costs_nothing_when_its_end_is_wanted(videos: VideoShelf):
    for name in ("base.mp4", "base.mkv", "vp9.webm", "av1.mp4"):
        counts = assert_exact(videos(name), PLANS["8 frames of the end"])
        assert counts.num_decoded <= 1 + 16 < NUM_FRAMES


def test_every_frame_wanted_is_every_packet_decoded(videos: VideoShelf):
    plan: Plan = lambda us: ([Segment(start_us=0, end_us=us)], NUM_FRAMES)  # noqa: E731
    counts = assert_exact(videos("base.mp4"), plan)
    assert counts.num_decoded == counts.num_read == NUM_FRAMES
