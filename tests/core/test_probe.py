"""What the probe says of good files, and the reason it gives for each kind of bad one."""

import os
from pathlib import Path

import av
import pytest

from tests.core.conftest import VideoShelf
from tests.core.video_factory import DURATION_US, FPS
from video2lora_core.content import content_id, file_size
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import probe


def reason_for(path: Path, **how: int) -> Reason:
    with pytest.raises(VideoError) as caught:
        probe(path, **how)
    assert path.name in caught.value.detail
    return caught.value.reason


def test_a_probe_says_what_the_file_is(videos: VideoShelf):
    seen = probe(videos("start5.mp4"))
    assert seen.duration_us == DURATION_US
    assert seen.origin_us == 5_000_000
    assert (seen.width_px, seen.height_px, seen.rotation_deg) == (96, 96, 0)
    assert seen.fps == pytest.approx(FPS)
    assert (seen.codec, seen.pixel_format) == ("h264", "yuv420p")
    assert "mp4" in seen.container.split(",")


@pytest.mark.parametrize("name", ["rotated90.mp4", "rotated270.mp4"])
def test_the_size_is_that_of_the_upright_frame(videos: VideoShelf, name: str):
    seen = probe(videos(name))
    assert abs(seen.rotation_deg) == 90
    assert (seen.width_px, seen.height_px) == (96, 128)


@pytest.mark.parametrize("name", ["noduration.webm", "bare.h264", "long_claim.mkv"])
def test_a_duration_the_header_does_not_give_or_cannot_mean_is_found_in_the_packets(
    videos: VideoShelf, name: str
):
    seen = probe(videos(name))
    assert seen.duration_us == DURATION_US
    assert seen.fps == pytest.approx(FPS)


def test_matroskas_duration_is_counted_from_its_first_frame(videos: VideoShelf):
    with av.open(str(videos("start5.mkv"))) as opened:
        assert opened.duration == DURATION_US + 5_000_000 or opened.start_time == 5_000_000
    assert probe(videos("start5.mkv")).duration_us == DURATION_US


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.mp4", Reason.SRC_EMPTY),
        ("text.mp4", Reason.NOT_MEDIA),
        ("random.mp4", Reason.NOT_MEDIA),
        ("half.mp4", Reason.NOT_MEDIA),
        ("corrupt_moov.mp4", Reason.CORRUPT_CONTAINER),
        ("audio.mp4", Reason.NO_VIDEO_STREAM),
        ("cover.m4a", Reason.NO_VIDEO_STREAM),
        ("jpeg.mp4", Reason.STILL_IMAGE),
        ("png.mp4", Reason.STILL_IMAGE),
        ("gif.mp4", Reason.STILL_IMAGE),
        ("unknown_codec.mp4", Reason.UNSUPPORTED_CODEC),
        ("noise_all.mp4", Reason.UNSUPPORTED_CODEC),
        ("zeros_all.mp4", Reason.UNSUPPORTED_CODEC),
        ("no_fragment.mp4", Reason.NO_FRAMES),
    ],
)
def test_every_kind_of_bad_file_has_its_reason(videos: VideoShelf, name: str, reason: Reason):
    assert reason_for(videos(name)) == reason


@pytest.mark.parametrize("name", ["ffconcat.mp4", "m3u8.mp4", "sdp.mp4"])
def test_a_play_list_is_refused_whatever_it_is_called(videos: VideoShelf, name: str):
    assert reason_for(videos(name)) == Reason.NOT_MEDIA


def test_the_refused_play_list_is_one_that_ffmpeg_would_follow(videos: VideoShelf):
    victim, play_list = videos("base.mp4"), videos("ffconcat.mp4")
    assert victim.parent == play_list.parent
    with av.open(str(play_list)) as opened:
        assert opened.format.name == "concat"
        assert next(opened.decode(video=0)).width == 96


def test_a_missing_file_and_one_that_is_none_have_their_reasons(tmp_path: Path):
    assert reason_for(tmp_path / "missing.mp4") == Reason.SRC_NOT_FOUND
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    assert reason_for(folder) == Reason.SRC_IO


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_named_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path):
    pipe = tmp_path / "pipe.mp4"
    os.mkfifo(pipe)
    assert reason_for(pipe) == Reason.SRC_IO
    with pytest.raises(VideoError, match="not a regular file"):
        content_id(pipe)


def test_a_video_beyond_the_limit_is_bogus_only_after_its_packets_agree(videos: VideoShelf):
    assert reason_for(videos("base.mp4"), max_duration_us=5_000_000) == Reason.DURATION_BOGUS


def test_frames_above_the_limit_are_refused_before_decoding(videos: VideoShelf):
    assert reason_for(videos("base.mp4"), max_pixels=96 * 96 - 1) == Reason.TOO_LARGE
    assert probe(videos("base.mp4"), max_pixels=96 * 96).width_px == 96


def test_a_file_above_the_limit_is_refused_by_its_size(videos: VideoShelf):
    path = videos("base.mp4")
    assert file_size(path, max_bytes=path.stat().st_size) == path.stat().st_size
    with pytest.raises(VideoError) as caught:
        file_size(path, max_bytes=path.stat().st_size - 1)
    assert caught.value.reason == Reason.TOO_LARGE


def test_a_name_that_looks_like_a_protocol_is_only_a_name(videos: VideoShelf, tmp_path: Path):
    for name in ("concat:a|b.mp4", "http:x.mp4", "%d.mp4", "-i.mp4"):
        path = tmp_path / name
        path.write_bytes(videos.content("base.mp4"))
        assert probe(path).duration_us == DURATION_US


def test_a_videos_identity_is_the_hash_of_its_bytes(videos: VideoShelf, tmp_path: Path):
    copy = tmp_path / "renamed"
    copy.write_bytes(videos.content("base.mp4"))
    assert content_id(copy) == content_id(videos("base.mp4"))
    assert len(content_id(copy)) == 64
    assert content_id(copy) != content_id(videos("base.mkv"))
    with pytest.raises(VideoError) as caught:
        content_id(tmp_path / "missing.mp4")
    assert caught.value.reason == Reason.SRC_NOT_FOUND
    with pytest.raises(VideoError) as caught:
        content_id(tmp_path)
    assert caught.value.reason == Reason.SRC_IO
