"""decord gives the frames PyAV gives, or refuses; without its wheel the error says what to do."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.core.conftest import VideoShelf
from tests.core.video_factory import as_stored, read_number
from video2lora_core.decord_decoder import _checked_times_us
from video2lora_core.errors import Reason, UsageError, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode, probe
from video2lora_core.segments import tile


def outcomes(path: Path, *, decoder: str) -> list[SegmentFrames | SegmentReject]:
    segments = tile(probe(path).duration_us, segment_us=2_500_000, min_tail_us=1_000_000)
    return list(decode(path, segments, num_frames=4, prepare=as_stored, decoder=decoder))


@pytest.fixture(scope="module")
def decord() -> object:
    return pytest.importorskip("decord")


@pytest.mark.parametrize(
    "name",
    [
        "base.mp4",
        "fragmented.mp4",
        "base.mkv",
        "vp9.webm",
        "start5.mp4",
        "start5.mkv",
        "vfr.mp4",
        "gap.mp4",
        "one.mp4",
        "rotated90.mp4",
        "rotated270.mp4",
        "wide_pixels.mp4",
    ],
)
def test_both_decoders_give_the_same_pixels_at_the_same_times(
    decord: object, videos: VideoShelf, name: str
):
    ours = outcomes(videos(name), decoder="pyav")
    theirs = outcomes(videos(name), decoder="decord")
    for expected, found in zip(ours, theirs, strict=True):
        assert isinstance(expected, SegmentFrames)
        assert isinstance(found, SegmentFrames)
        assert found.times_us == expected.times_us
        assert found.num_unique_frames == expected.num_unique_frames
        np.testing.assert_array_equal(found.pixels, expected.pixels)


@pytest.mark.parametrize(
    "name",
    ["base.ts", "hevc.mp4", "tenbit.mp4", "mpeg4.avi", "mpeg2.mpg", "wmv2.wmv"],
)
def test_what_decord_gets_wrong_is_refused(decord: object, videos: VideoShelf, name: str):
    with pytest.raises(VideoError, match="decord gives wrong frames") as caught:
        outcomes(videos(name), decoder="decord")
    assert caught.value.reason == Reason.UNSUPPORTED_CODEC


@pytest.mark.parametrize("name", ["noduration.webm", "bare.h264", "half_faststart.mp4"])
def test_what_decord_cannot_open_has_a_reason(decord: object, videos: VideoShelf, name: str):
    with pytest.raises(VideoError, match="decord cannot open it") as caught:
        outcomes(videos(name), decoder="decord")
    assert caught.value.reason == Reason.UNSUPPORTED_CODEC


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text.mp4", Reason.NOT_MEDIA),
        ("ffconcat.mp4", Reason.NOT_MEDIA),
        ("empty.mp4", Reason.SRC_EMPTY),
    ],
)
def test_bad_files_have_the_reasons_of_the_probe(
    decord: object, videos: VideoShelf, name: str, reason: Reason
):
    segments = tile(10_000_000, segment_us=2_500_000, min_tail_us=0)
    with pytest.raises(VideoError) as caught:
        next(decode(videos(name), segments, num_frames=4, prepare=as_stored, decoder="decord"))
    assert caught.value.reason == reason


def test_a_damaged_frame_rejects_its_segment_and_not_the_video(decord: object, videos: VideoShelf):
    found = outcomes(videos("noise.mp4"), decoder="decord")
    damaged = [outcome for outcome in found if isinstance(outcome, SegmentReject)]
    assert {outcome.reason for outcome in damaged} == {Reason.CORRUPT_FRAMES}
    assert isinstance(found[-1], SegmentFrames)
    assert [read_number(frame) for frame in found[-1].pixels] == [62, 67, 72, 77]


def test_a_truncated_video_is_rejected_from_where_it_ends(decord: object, videos: VideoShelf):
    found = outcomes(videos("half.mkv"), decoder="decord")
    assert [type(outcome) for outcome in found] == [SegmentFrames] + [SegmentReject] * 3


@pytest.mark.parametrize("wrong", [[0.0, -3.69e17, 1.0], [0.0, 0.0, 1.0], [0.0, np.nan, 1.0]])
def test_timestamps_that_mean_nothing_are_refused(wrong: list[float]):
    times_s = np.stack([wrong, wrong], axis=1).astype(np.float32)
    with pytest.raises(VideoError, match="do not ascend"):
        _checked_times_us(times_s, Path("wrong.avi"))


def test_a_file_decord_gives_no_timestamps_for_is_refused(decord: object, videos: VideoShelf):
    with pytest.raises(VideoError, match="do not ascend"):
        outcomes(videos("slow.mkv"), decoder="decord")


def test_without_the_wheel_the_error_says_what_to_do(
    videos: VideoShelf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UsageError, match="use decoder: pyav"):
        outcomes(videos("base.mp4"), decoder="decord")
