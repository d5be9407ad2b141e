"""The right frame at every instant of every intact file, and a reason for each damaged segment."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.core.conftest import VideoShelf
from tests.core.video_factory import DURATION_US, FPS, as_stored, mangled, read_number
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode, probe
from video2lora_core.segments import Segment, tile

SEGMENT_US = 2_500_000
NUM_FRAMES = 4


def outcomes(path: Path, *, num_frames: int = NUM_FRAMES) -> list[SegmentFrames | SegmentReject]:
    segments = tile(probe(path).duration_us, segment_us=SEGMENT_US, min_tail_us=1_000_000)
    found = list(decode(path, segments, num_frames=num_frames, prepare=as_stored))
    assert tuple(outcome.segment for outcome in found) == segments
    return found


def numbers(outcome: SegmentFrames | SegmentReject) -> list[int]:
    assert isinstance(outcome, SegmentFrames), outcome
    return [read_number(frame) for frame in outcome.pixels]


def reasons(found: list[SegmentFrames | SegmentReject]) -> list[Reason | None]:
    return [outcome.reason if isinstance(outcome, SegmentReject) else None for outcome in found]


@pytest.mark.parametrize(
    "name",
    [
        "base.mp4",
        "faststart.mp4",
        "fragmented.mp4",
        "base.mkv",
        "base.ts",
        "bare.h264",
        "vp9.webm",
        "vp9.ivf",
        "noduration.webm",
        "hevc.mp4",
        "tenbit.mp4",
        "mpeg4.avi",
        "wmv2.wmv",
        "opengop.mp4",
        "av1.mp4",
        "flv1.flv",
        "prores.mov",
        "h264_422_10.mp4",
        "start5.mp4",
        "start5.mkv",
        "start5.ts",
        "wide_pixels.mp4",
        "broken_title.mp4",
        "long_claim.mkv",
    ],
)
def test_every_wrapping_gives_the_same_frames_for_the_same_instants(videos: VideoShelf, name: str):
    found = outcomes(videos(name))
    assert found[-1].segment.end_us == DURATION_US
    for outcome in found:
        assert isinstance(outcome, SegmentFrames)
        assert numbers(outcome) == [t_us * FPS // 1_000_000 for t_us in outcome.times_us]
        assert (outcome.num_unique_frames, outcome.num_corrupt_frames) == (NUM_FRAMES, 0)
        assert outcome.max_lag_us < 1_000_000 / FPS
        assert outcome.flags == ()


def test_a_variable_frame_rate_is_followed_by_time(videos: VideoShelf):
    for outcome in outcomes(videos("vfr.mp4")):
        assert isinstance(outcome, SegmentFrames)
        expected = [
            t_us * FPS // 1_000_000 if t_us < 5_000_000 else 40 + (t_us - 5_000_000) // 500_000
            for t_us in outcome.times_us
        ]
        assert numbers(outcome) == expected


def test_mpeg_ps_with_b_frames_is_followed_by_time(videos: VideoShelf):
    for outcome in outcomes(videos("mpeg2.mpg")):
        assert numbers(outcome) == [t_us * 25 // 1_000_000 for t_us in outcome.times_us]


def test_an_odd_size_keeps_every_row_and_column(videos: VideoShelf):
    outcome = outcomes(videos("odd.webm"))[1]
    assert isinstance(outcome, SegmentFrames)
    assert outcome.pixels.shape == (NUM_FRAMES, 3, 95, 97)
    assert numbers(outcome) == [22, 27, 32, 37]


def test_an_odd_size_in_full_chroma_keeps_every_row_and_column(videos: VideoShelf):
    outcome = outcomes(videos("odd444.mp4"))[1]
    assert isinstance(outcome, SegmentFrames)
    assert outcome.pixels.shape == (NUM_FRAMES, 3, 95, 97)
    assert numbers(outcome) == [22, 27, 32, 37]


def test_120_frames_a_second_are_followed_by_time(videos: VideoShelf):
    (outcome,) = outcomes(videos("fps120.mp4"))
    assert numbers(outcome) == [30, 90, 150, 210]


def test_an_edit_list_says_where_a_video_begins(videos: VideoShelf):
    found = outcomes(videos("editlist.mp4"))
    assert found[-1].segment.end_us == DURATION_US - 3_250_000
    for outcome in found:
        assert isinstance(outcome, SegmentFrames)
        assert numbers(outcome) == [26 + t_us * FPS // 1_000_000 for t_us in outcome.times_us]


@pytest.mark.parametrize("name", ["pq.mp4", "hlg.mp4"])
def test_high_dynamic_range_is_shown_as_if_it_were_standard_and_flagged(
    videos: VideoShelf, name: str
):
    for hdr, sdr in zip(outcomes(videos(name)), outcomes(videos("tenbit.mp4")), strict=True):
        assert isinstance(hdr, SegmentFrames)
        assert isinstance(sdr, SegmentFrames)
        assert (hdr.flags, sdr.flags) == ((Reason.HDR_AS_SDR,), ())
        np.testing.assert_array_equal(hdr.pixels, sdr.pixels)


def test_one_frame_fills_its_segment_and_says_so(videos: VideoShelf):
    (outcome,) = outcomes(videos("one.mp4"))
    assert isinstance(outcome, SegmentFrames)
    assert numbers(outcome) == [3] * NUM_FRAMES
    assert outcome.num_unique_frames == 1


def test_a_slow_video_shows_each_frame_until_the_next(videos: VideoShelf):
    found = outcomes(videos("slow.mkv"))
    assert [set(numbers(outcome)) for outcome in found] == [{i // 4} for i in range(24)]


def test_a_pause_in_the_timestamps_holds_the_frame_and_is_flagged(videos: VideoShelf):
    found = outcomes(videos("gap.mp4"))
    assert reasons(found) == [None] * 18
    assert [set(numbers(outcome)) for outcome in found[2:16]] == [{39}] * 14
    assert numbers(found[16]) == [42, 47, 52, 57]
    flagged = [Reason.PTS_DISCONTINUITY in o.flags for o in found if isinstance(o, SegmentFrames)]
    assert flagged == [False] + [True] * 15 + [False] * 2


def test_a_recording_that_starts_over_is_flagged_and_its_second_part_is_left_out(
    videos: VideoShelf,
):
    found = outcomes(videos("restarted.ts"))
    assert numbers(found[-1]) == [62, 67, 72, 77]
    assert isinstance(found[-1], SegmentFrames)
    assert found[-1].flags == (Reason.PTS_DISCONTINUITY,)


def test_a_change_of_size_is_flagged_where_it_happens(videos: VideoShelf):
    small = {"num_frames": NUM_FRAMES, "prepare": lambda frame: as_stored(frame)[:, :, :96]}
    segments = tile(DURATION_US, segment_us=SEGMENT_US, min_tail_us=0)
    found = list(decode(videos("resized.h264"), segments, **small))  # type: ignore[arg-type]
    flags = [outcome.flags for outcome in found if isinstance(outcome, SegmentFrames)]
    assert flags == [(), (), (Reason.RES_CHANGE,), ()]


@pytest.mark.parametrize(("name", "turns"), [("rotated90.mp4", 1), ("rotated270.mp4", -1)])
def test_a_turned_video_is_given_upright(videos: VideoShelf, name: str, turns: int):
    stored = outcomes(videos("unrotated.mp4"))[0]
    upright = outcomes(videos(name))[0]
    assert isinstance(stored, SegmentFrames)
    assert isinstance(upright, SegmentFrames)
    assert upright.pixels.shape == (NUM_FRAMES, 3, 128, 96)
    expected = np.rot90(stored.pixels, k=turns, axes=(2, 3))
    np.testing.assert_array_equal(upright.pixels, expected)


def test_pixels_count_as_stored_whatever_their_aspect(videos: VideoShelf):
    wide, square = outcomes(videos("wide_pixels.mp4"))[0], outcomes(videos("base.mp4"))[0]
    assert isinstance(wide, SegmentFrames)
    assert isinstance(square, SegmentFrames)
    np.testing.assert_array_equal(wide.pixels, square.pixels)


@pytest.mark.parametrize("name", ["half_faststart.mp4", "half.mkv"])
def test_a_truncated_video_keeps_its_good_segments_and_pads_nothing(videos: VideoShelf, name: str):
    found = outcomes(videos(name))
    assert numbers(found[0]) == [2, 7, 12, 17]
    assert reasons(found) == [None, Reason.TRUNCATED, Reason.TRUNCATED, Reason.TRUNCATED]


def test_a_truncated_fragmented_video_is_only_shorter(videos: VideoShelf):
    found = outcomes(videos("half_fragmented.mp4"))
    assert found[-1].segment.end_us < DURATION_US
    assert reasons(found) == [None] * len(found)


@pytest.mark.parametrize("name", ["noise.mp4", "zeros_inside.mp4"])
def test_damaged_packets_reject_the_segments_that_hold_them(videos: VideoShelf, name: str):
    found = outcomes(videos(name))
    assert Reason.CORRUPT_FRAMES in reasons(found)
    assert set(reasons(found)) <= {None, Reason.CORRUPT_FRAMES, Reason.COVERAGE_GAP}
    assert numbers(found[-1]) == [62, 67, 72, 77]


def test_a_damaged_head_does_not_move_the_times_of_the_rest(videos: VideoShelf):
    found = outcomes(videos("noise_head.mp4"))
    assert reasons(found)[0] == Reason.CORRUPT_FRAMES
    assert numbers(found[2]) == [42, 47, 52, 57]
    assert numbers(found[3]) == [62, 67, 72, 77]


def test_a_stream_joined_between_key_frames_begins_with_its_first_whole_frame(videos: VideoShelf):
    found = outcomes(videos("joined.ts"))
    assert found[-1].segment.end_us == DURATION_US - 2_000_000
    for outcome in found:
        assert isinstance(outcome, SegmentFrames)
        assert numbers(outcome) == [16 + t_us * FPS // 1_000_000 for t_us in outcome.times_us]


def test_a_zeroed_tail_is_damage_and_not_an_end(videos: VideoShelf):
    found = outcomes(videos("zeros_tail.mp4"))
    assert reasons(found)[0] is None
    assert reasons(found)[-1] == Reason.CORRUPT_FRAMES
    assert Reason.TRUNCATED not in reasons(found)


def test_once_over_30_percent_is_damaged_the_rest_is_rejected_with_it(videos: VideoShelf):
    found = outcomes(videos("zeros_early.mp4"))
    assert reasons(found)[0] is None
    assert reasons(found)[-1] == Reason.CORRUPT_FRAMES
    assert isinstance(found[-1], SegmentReject)
    assert "before it are damaged" in found[-1].detail


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("noise.mkv", Reason.COVERAGE_GAP),
        ("noise.ts", Reason.COVERAGE_GAP),
        ("noise.webm", Reason.CORRUPT_FRAMES),
    ],
)
def test_packets_lost_without_an_error_are_found_by_the_hole_they_leave(
    videos: VideoShelf, name: str, reason: Reason
):
    found = outcomes(videos(name))
    assert numbers(found[0]) == [2, 7, 12, 17]
    assert reason in reasons(found)
    assert set(reasons(found)) <= {None, Reason.COVERAGE_GAP, Reason.CORRUPT_FRAMES}
    assert numbers(found[-1]) == [62, 67, 72, 77]


def test_frames_lost_at_the_head_are_not_stood_in_for_by_the_first_one(videos: VideoShelf):
    found = outcomes(videos("noise_head.mkv"))
    assert reasons(found)[0] is not None
    assert Reason.COVERAGE_GAP in reasons(found)
    assert numbers(found[-1]) == [62, 67, 72, 77]


def test_a_recording_on_hold_is_a_still_picture_when_its_sound_goes_on(videos: VideoShelf):
    segments = tile(8_000_000, segment_us=2_000_000, min_tail_us=0)
    found = list(decode(videos("paused.mkv"), segments, num_frames=4, prepare=as_stored))
    assert reasons(found) == [None] * 4
    assert [set(numbers(outcome)) for outcome in found[1:3]] == [{15}, {15}]


def test_a_container_that_cannot_be_read_on_ends_there(videos: VideoShelf):
    found = outcomes(videos("bent.ivf"))
    assert numbers(found[0]) == [2, 7, 12, 17]
    assert None not in reasons(found)[1:]


def test_no_frame_given_from_a_damaged_video_is_a_wrong_one(videos: VideoShelf):
    names = "noise.mp4 noise.mkv noise.ts noise.webm noise_head.mkv noise_head.mp4"
    for name in [*names.split(), "zeros_tail.mp4", "noise.hevc.mp4", "half.mkv", "bent.ivf"]:
        for outcome in outcomes(videos(name)):
            if isinstance(outcome, SegmentFrames):
                assert numbers(outcome) == [t_us * FPS // 1_000_000 for t_us in outcome.times_us]


def test_only_the_segments_asked_for_are_given(videos: VideoShelf):
    wanted = [
        Segment(start_us=2_500_000, end_us=5_000_000),
        Segment(start_us=7_500_000, end_us=10_000_000),
    ]
    found = list(decode(videos("base.mp4"), wanted, num_frames=4, prepare=as_stored))
    assert [numbers(outcome) for outcome in found] == [[22, 27, 32, 37], [62, 67, 72, 77]]


def test_segments_beyond_the_end_are_rejected_not_forgotten(videos: VideoShelf):
    segments = tile(15_000_000, segment_us=SEGMENT_US, min_tail_us=0)
    found = list(decode(videos("base.mp4"), segments, num_frames=4, prepare=as_stored))
    assert reasons(found) == [None] * 4 + [Reason.TRUNCATED] * 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("noise_all.mp4", Reason.UNSUPPORTED_CODEC),
        ("zeros_all.mp4", Reason.UNSUPPORTED_CODEC),
        ("no_fragment.mp4", Reason.NO_FRAMES),
        ("ffconcat.mp4", Reason.NOT_MEDIA),
        ("audio.mp4", Reason.NO_VIDEO_STREAM),
    ],
)
def test_what_cannot_be_decoded_at_all_raises_before_the_first_segment(
    videos: VideoShelf, name: str, reason: Reason
):
    segments = tile(DURATION_US, segment_us=SEGMENT_US, min_tail_us=0)
    with pytest.raises(VideoError) as caught:
        next(decode(videos(name), segments, num_frames=4, prepare=as_stored))
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "base.mkv", "base.ts"])
def test_a_mangled_file_gives_every_segment_once_or_a_reason(
    videos: VideoShelf, tmp_path: Path, name: str
):
    content = videos.content(name)
    for seed in range(20):
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(mangled(content, random.Random(seed)))
        with suppress(VideoError):
            outcomes(path)


def test_frames_that_grow_beyond_the_limit_are_not_decoded(videos: VideoShelf):
    segments = tile(DURATION_US, segment_us=SEGMENT_US, min_tail_us=0)
    small = {"num_frames": 4, "prepare": as_stored, "max_pixels": 128 * 100}
    found = list(decode(videos("resized.h264"), segments, **small))  # type: ignore[arg-type]
    assert reasons(found)[0] is None
    assert reasons(found)[-1] is not None


def test_the_same_file_decodes_to_the_same_bytes_twice(videos: VideoShelf):
    first, second = (outcomes(videos("hevc.mp4")) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert isinstance(a, SegmentFrames)
        assert isinstance(b, SegmentFrames)
        assert a.pixels.tobytes() == b.pixels.tobytes()
