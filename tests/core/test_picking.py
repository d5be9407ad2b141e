"""The pass that picks frames and judges segments, on made-up frames: no file, no decoder."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.errors import Reason, VideoError
from video2lora_core.picking import pick
from video2lora_core.segment_frames import Damage, DecodedFrame, SegmentFrames, SegmentReject
from video2lora_core.segments import Segment, tile

SECOND = 1_000_000
STEP = SECOND // 8


@dataclass
class Camera:
    """Makes frames that know their own time, and counts how many were converted and prepared."""

    converted: list[int] = field(default_factory=list)
    num_prepared: int = 0

    def frame(self, t_us: int, *, end_us: int | None = None, **marks: bool) -> DecodedFrame:
        def rgb() -> np.ndarray:
            self.converted.append(t_us)
            return np.array([t_us], dtype=np.int64).view(np.uint8).reshape(1, 8, 1)

        marks.setdefault("is_corrupt", False)
        end_us = t_us + STEP if end_us is None else end_us
        return DecodedFrame(t_us=t_us, end_us=end_us, width_px=8, height_px=1, rgb=rgb, **marks)

    def film(self, start_us: int, end_us: int) -> list[DecodedFrame]:
        return [self.frame(t_us) for t_us in range(start_us, end_us, STEP)]

    def prepare(self, frame: np.ndarray) -> np.ndarray:
        self.num_prepared += 1
        return frame.transpose(2, 0, 1)


def times(outcome: SegmentFrames | SegmentReject) -> list[int]:
    assert isinstance(outcome, SegmentFrames), outcome
    return [int(frame.tobytes() and np.frombuffer(frame, np.int64)[0]) for frame in outcome.pixels]


def run(
    camera: Camera,
    items: list[DecodedFrame | Damage],
    *,
    segments: tuple[Segment, ...] | None = None,
    num_frames: int = 4,
) -> list[SegmentFrames | SegmentReject]:
    segments = segments or tile(6 * SECOND, segment_us=2 * SECOND, min_tail_us=0)
    found = list(pick(items, segments, num_frames=num_frames, prepare=camera.prepare))
    assert tuple(outcome.segment for outcome in found) == segments
    return found


def reasons(found: list[SegmentFrames | SegmentReject]) -> list[Reason | None]:
    return [outcome.reason if isinstance(outcome, SegmentReject) else None for outcome in found]


@given(
    gaps=st.lists(st.integers(min_value=1, max_value=3 * SECOND), min_size=1, max_size=40),
    segment_us=st.integers(min_value=SECOND // 2, max_value=4 * SECOND),
    num_frames=st.integers(min_value=1, max_value=5),
)
def test_every_instant_of_an_intact_video_gets_the_last_frame_at_or_before_it(
    gaps: list[int], segment_us: int, num_frames: int
):
    starts = [sum(gaps[:index]) for index in range(len(gaps))]
    camera = Camera()
    items = [
        camera.frame(start, end_us=start + gap) for start, gap in zip(starts, gaps, strict=True)
    ]
    segments = tile(sum(gaps), segment_us=segment_us, min_tail_us=segment_us // 2)
    for outcome in run(camera, list(items), segments=segments, num_frames=num_frames):
        assert isinstance(outcome, SegmentFrames)
        expected = [max(s for s in starts if s <= t_us) for t_us in outcome.times_us]
        assert times(outcome) == expected
        assert outcome.num_unique_frames == len(set(expected))
        lags = [t_us - e for t_us, e in zip(outcome.times_us, expected, strict=True)]
        assert outcome.max_lag_us == max(lags)


def draw_item(camera: Camera, data: st.DataObject) -> DecodedFrame | Damage:
    t_us = data.draw(st.integers(min_value=0, max_value=8 * SECOND))
    end_us = t_us + data.draw(st.integers(min_value=0, max_value=SECOND))
    if data.draw(st.booleans()):
        return Damage(t_us=t_us, end_us=end_us, is_lost=data.draw(st.booleans()))
    marks = {"is_corrupt": data.draw(st.booleans()), "is_displaced": data.draw(st.booleans())}
    return camera.frame(t_us, end_us=end_us, **marks)


@given(data=st.data(), num_items=st.integers(min_value=0, max_value=30))
def test_whatever_a_decoder_gives_every_segment_comes_out_once_and_in_order(
    data: st.DataObject, num_items: int
):
    camera = Camera()
    items = [draw_item(camera, data) for _ in range(num_items)]
    for outcome in run(camera, items):
        assert outcome.segment.duration_us == 2 * SECOND
        if isinstance(outcome, SegmentFrames):
            assert len(outcome.pixels) == len(outcome.times_us) == 4


def test_only_picked_frames_are_converted_and_each_only_once():
    camera = Camera()
    found = run(camera, camera.film(0, 6 * SECOND), num_frames=2)
    assert camera.converted == [time for outcome in found for time in times(outcome)]
    assert camera.num_prepared == 6
    camera = Camera()
    run(camera, [camera.frame(0, end_us=6 * SECOND)])
    assert camera.num_prepared == 1


def test_a_segment_is_given_out_before_the_next_one_is_decoded():
    camera = Camera()
    decoded: list[int] = []

    def items() -> Iterator[DecodedFrame]:
        for frame in camera.film(0, 6 * SECOND):
            decoded.append(frame.t_us)
            yield frame

    segments = tile(6 * SECOND, segment_us=2 * SECOND, min_tail_us=0)
    for outcome in pick(items(), segments, num_frames=4, prepare=camera.prepare):
        assert decoded[-1] <= outcome.segment.end_us


def test_nothing_is_decoded_after_the_last_segment():
    camera = Camera()
    items = iter(camera.film(0, 6 * SECOND))
    segments = (Segment(start_us=0, end_us=SECOND),)
    assert len(list(pick(items, segments, num_frames=4, prepare=camera.prepare))) == 1
    assert next(items).t_us == SECOND + STEP


@pytest.mark.parametrize(("end_us", "is_good"), [(1_900_000, True), (1_899_999, False)])
def test_95_percent_of_a_segment_is_enough_and_less_is_not(end_us: int, is_good: bool):
    camera = Camera()
    items = [camera.frame(0, end_us=end_us)]
    (outcome,) = run(camera, list(items), segments=(Segment(start_us=0, end_us=2 * SECOND),))
    assert reasons([outcome]) == [None if is_good else Reason.TRUNCATED]


def test_a_truncated_segment_costs_no_conversion_after_the_end():
    camera = Camera()
    run(camera, camera.film(0, 2 * SECOND))
    assert max(camera.converted) < 2 * SECOND


@pytest.mark.parametrize(("num_corrupt", "is_good"), [(2, True), (3, False)])
def test_two_percent_of_damaged_frames_are_borne_and_more_are_not(num_corrupt: int, is_good: bool):
    camera = Camera()
    items = [
        camera.frame(index * STEP, is_corrupt=index in range(50, 50 + num_corrupt))
        for index in range(100)
    ]
    segments = (Segment(start_us=0, end_us=100 * STEP),)
    (outcome,) = run(camera, list(items), segments=segments)
    assert reasons([outcome]) == [None if is_good else Reason.CORRUPT_FRAMES]
    if isinstance(outcome, SegmentFrames):
        assert outcome.num_corrupt_frames == num_corrupt


def test_damage_is_counted_where_it_lies_though_it_is_found_earlier():
    camera = Camera()
    ahead = Damage(t_us=3 * SECOND, end_us=3 * SECOND + STEP)
    items = [*camera.film(0, SECOND), ahead, *camera.film(SECOND, 6 * SECOND)]
    assert reasons(run(camera, items)) == [None, Reason.CORRUPT_FRAMES, None]


def test_over_30_percent_of_damage_rejects_what_follows_but_not_what_was_given():
    camera = Camera()
    bad = [camera.frame(2 * SECOND + index * STEP, is_corrupt=True) for index in range(16)]
    items = [*camera.film(0, 2 * SECOND), *bad, *camera.film(4 * SECOND, 6 * SECOND)]
    found = run(camera, items)
    assert reasons(found) == [None, Reason.CORRUPT_FRAMES, Reason.CORRUPT_FRAMES]
    assert isinstance(found[2], SegmentReject)
    assert "30%" in found[2].detail


def test_a_hole_without_a_sign_of_damage_is_a_still_picture():
    camera = Camera()
    items = [*camera.film(0, 2 * SECOND), *camera.film(5 * SECOND, 6 * SECOND)]
    found = run(camera, list(items))
    assert reasons(found) == [None, None, None]
    assert set(times(found[1])) == {2 * SECOND - STEP}


def test_instants_before_the_first_frame_get_none():
    camera = Camera()
    head = Damage(t_us=0, end_us=STEP)
    found = run(camera, [head, *camera.film(3 * SECOND, 6 * SECOND)])
    assert reasons(found) == [Reason.CORRUPT_FRAMES, Reason.COVERAGE_GAP, None]
    assert min(camera.converted) >= 3 * SECOND


def test_damaged_data_behind_the_last_frame_is_no_picture():
    camera = Camera()
    tail = Damage(t_us=6 * SECOND - STEP, end_us=9 * SECOND)
    found = run(camera, [*camera.film(0, 2 * SECOND), tail])
    assert reasons(found) == [None, Reason.COVERAGE_GAP, Reason.CORRUPT_FRAMES]


def test_after_a_hole_frames_are_damaged_up_to_the_next_key_frame():
    camera = Camera()
    sign = Damage(t_us=2 * SECOND - 4 * STEP, end_us=2 * SECOND, is_lost=False)
    orphans = [camera.frame(t_us, is_key=False) for t_us in range(2 * SECOND, 3 * SECOND, STEP)]
    rest = camera.film(3 * SECOND, 6 * SECOND)
    found = run(camera, [*camera.film(0, 2 * SECOND - 3 * STEP), sign, *orphans, *rest])
    assert reasons(found) == [Reason.COVERAGE_GAP, Reason.CORRUPT_FRAMES, None]
    assert isinstance(found[1], SegmentReject)
    assert found[1].detail.startswith("8 of 16 frames")


@pytest.mark.parametrize("sign", ["corrupt before", "displaced", "marked packet"])
def test_a_hole_beside_damage_is_a_coverage_gap(sign: str):
    camera = Camera()
    last = 4 * SECOND - 8 * STEP
    items: list[DecodedFrame | Damage] = [*camera.film(0, last)]
    if sign == "marked packet":
        items.append(Damage(t_us=last, end_us=last + STEP, is_lost=False))
    after = camera.film(4 * SECOND - STEP, 6 * SECOND)
    if sign == "displaced":
        after[0] = camera.frame(after[0].t_us, is_displaced=True)
    segments = tile(60 * SECOND, segment_us=6 * SECOND, min_tail_us=0)[:1]
    if sign == "corrupt before":
        items[-1] = camera.frame(last - STEP, is_corrupt=True)
    (outcome,) = run(camera, [*items, *after], segments=segments)
    expected = Reason.CORRUPT_FRAMES if sign == "corrupt before" else Reason.COVERAGE_GAP
    assert reasons([outcome]) == [expected]


def test_a_jump_of_more_than_30_seconds_is_flagged_on_both_sides():
    camera = Camera()
    items = [*camera.film(0, 2 * SECOND), *camera.film(40 * SECOND, 42 * SECOND)]
    segments = tile(42 * SECOND, segment_us=14 * SECOND, min_tail_us=0)
    found = run(camera, list(items), segments=segments)
    flags = [outcome.flags for outcome in found if isinstance(outcome, SegmentFrames)]
    assert flags == [(Reason.PTS_DISCONTINUITY,)] * 3


def test_time_never_runs_backwards():
    camera = Camera()
    items = [
        *camera.film(0, 4 * SECOND),
        *camera.film(0, SECOND),
        *camera.film(4 * SECOND, 6 * SECOND),
    ]
    found = run(camera, list(items))
    assert [times(outcome) == sorted(times(outcome)) for outcome in found] == [True] * 3
    flags = [outcome.flags for outcome in found if isinstance(outcome, SegmentFrames)]
    assert flags == [(), (Reason.PTS_DISCONTINUITY,), ()]


def test_a_frame_that_cannot_be_converted_rejects_its_segment_alone():
    def unconvertible() -> np.ndarray:
        raise VideoError(Reason.UNSUPPORTED_CODEC, "no conversion from x to RGB")

    camera = Camera()
    items = camera.film(0, 6 * SECOND)
    items[18] = DecodedFrame(
        t_us=18 * STEP,
        end_us=19 * STEP,
        width_px=8,
        height_px=1,
        is_corrupt=False,
        rgb=unconvertible,
    )
    assert reasons(run(camera, list(items))) == [None, Reason.UNSUPPORTED_CODEC, None]


def test_without_any_frame_every_segment_is_rejected():
    assert reasons(run(Camera(), [])) == [Reason.TRUNCATED] * 3
