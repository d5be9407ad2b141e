"""Segments tile the video exactly, and frame times stay inside their segment."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.errors import UsageError
from video2lora_core.segments import Segment, frame_times, meeting, tile

DAY_US = 24 * 3600 * 1_000_000
lengths = st.integers(min_value=1, max_value=DAY_US)
# Up to 40 segments of 1 us to 2 min: the edges lie at small numbers.
segment_lengths = st.integers(min_value=1, max_value=120_000_000)


@st.composite
def plans(draw: st.DrawFn) -> tuple[int, dict[str, int]]:
    segment_us = draw(segment_lengths)
    duration_us = draw(st.integers(min_value=1, max_value=40 * segment_us))
    min_tail_us = draw(st.integers(min_value=0, max_value=segment_us))
    return duration_us, {"segment_us": segment_us, "min_tail_us": min_tail_us}


@given(plan=plans())
def test_segments_tile_the_video_without_gap_or_overlap(plan: tuple[int, dict[str, int]]):
    duration_us, rule = plan
    segments = tile(duration_us, **rule)
    assert segments[0].start_us == 0
    assert segments[-1].end_us == duration_us
    assert all(before.end_us == after.start_us for before, after in pairwise(segments))


@given(plan=plans())
def test_every_segment_has_the_rules_length_but_the_last(plan: tuple[int, dict[str, int]]):
    duration_us, rule = plan
    *others, last = tile(duration_us, **rule)
    assert all(segment.duration_us == rule["segment_us"] for segment in others)
    assert last.duration_us < rule["segment_us"] + max(1, rule["min_tail_us"])
    if others:
        assert last.duration_us >= max(1, rule["min_tail_us"])


def test_a_short_tail_joins_the_segment_before_it_and_a_long_one_stands_alone():
    rule = {"segment_us": 30_000_000, "min_tail_us": 10_000_000}
    assert [s.duration_us for s in tile(69_999_999, **rule)] == [30_000_000, 39_999_999]
    assert [s.duration_us for s in tile(70_000_000, **rule)] == [30_000_000, 30_000_000, 10_000_000]


@given(duration_us=st.integers(min_value=1, max_value=30_000_000))
def test_a_video_shorter_than_one_segment_is_one_segment(duration_us: int):
    segments = tile(duration_us, segment_us=30_000_000, min_tail_us=10_000_000)
    assert segments == (Segment(start_us=0, end_us=duration_us),)


@given(
    start_us=st.integers(min_value=0, max_value=DAY_US),
    duration_us=lengths,
    num_frames=st.integers(min_value=1, max_value=64),
)
def test_frame_times_ascend_inside_the_segment(start_us: int, duration_us: int, num_frames: int):
    segment = Segment(start_us=start_us, end_us=start_us + duration_us)
    times = frame_times(segment, num_frames=num_frames)
    assert len(times) == num_frames
    assert list(times) == sorted(times)
    assert segment.start_us <= times[0]
    assert times[-1] < segment.end_us
    if duration_us >= 2 * num_frames:
        assert segment.start_us < times[0]
        assert len(set(times)) == num_frames


@given(duration_us=lengths, num_frames=st.integers(min_value=1, max_value=64))
def test_frame_times_are_the_centres_of_equal_parts(duration_us: int, num_frames: int):
    times = frame_times(Segment(start_us=7, end_us=7 + duration_us), num_frames=num_frames)
    centres = [7 + (index + 0.5) * duration_us / num_frames for index in range(num_frames)]
    assert all(0 <= centre - time < 1.001 for centre, time in zip(centres, times, strict=True))


@given(plan=plans(), data=st.data())
def test_the_segments_that_meet_a_span_are_those_that_share_an_instant(
    plan: tuple[int, dict[str, int]], data: st.DataObject
):
    duration_us, rule = plan
    segments = tile(duration_us, **rule)
    start_us = data.draw(st.integers(min_value=0, max_value=duration_us - 1))
    end_us = data.draw(st.integers(min_value=start_us + 1, max_value=duration_us + 1))
    found = meeting(segments, start_us=start_us, end_us=end_us)
    for segment in segments:
        shared = min(segment.end_us, end_us) - max(segment.start_us, start_us)
        assert (segment in found) == (shared > 0)


def test_a_span_that_ends_where_a_segment_begins_does_not_meet_it():
    segments = tile(60, segment_us=30, min_tail_us=10)
    assert meeting(segments, start_us=10, end_us=30) == segments[:1]
    assert meeting(segments, start_us=29, end_us=31) == segments


@pytest.mark.parametrize(
    ("start_us", "end_us", "words"),
    [(60, 90, "meets no segment"), (-5, 0, "meets no segment"), (20, 20, "is empty")],
)
def test_a_span_outside_the_video_is_refused(start_us: int, end_us: int, words: str):
    with pytest.raises(UsageError, match=words):
        meeting(tile(60, segment_us=30, min_tail_us=10), start_us=start_us, end_us=end_us)


def test_a_span_of_a_video_without_segments_is_refused():
    with pytest.raises(UsageError, match="there are no segments"):
        meeting((), start_us=0, end_us=1)


@pytest.mark.parametrize(
    ("duration_us", "segment_us", "min_tail_us"),
    [(0, 30, 10), (-1, 30, 10), (60, 0, 0), (60, 30, 31), (60, 30, -1)],
)
def test_a_rule_that_cannot_tile_is_refused(duration_us: int, segment_us: int, min_tail_us: int):
    with pytest.raises(UsageError, match="expected"):
        tile(duration_us, segment_us=segment_us, min_tail_us=min_tail_us)


@pytest.mark.parametrize(("start_us", "end_us"), [(5, 5), (6, 5), (-1, 5)])
def test_an_empty_or_negative_span_is_no_segment(start_us: int, end_us: int):
    with pytest.raises(UsageError, match="is not a span"):
        Segment(start_us=start_us, end_us=end_us)


def test_a_segment_shows_at_least_one_frame():
    with pytest.raises(UsageError, match="at least 1"):
        frame_times(Segment(start_us=0, end_us=10), num_frames=0)
