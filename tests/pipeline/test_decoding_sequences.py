"""Whatever is asked for and however often children are killed, results are those of one process."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.decoding_child import DecodingChild, InProcessReader, VideoReader
from tests.core.conftest import VideoShelf
from tests.core.video_factory import DURATION_US
from tests.pipeline.decoding_readers import assert_same, make
from video2lora_core.errors import VideoError
from video2lora_core.segments import tile

NAMES = ("base.mp4", "zeros_early.mp4", "half.mkv", "noise.ts", "vp9.webm", "text.mp4")
SEGMENTS = tile(DURATION_US, segment_us=1_250_000, min_tail_us=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of a reader.

    Attributes:
        name: the video.
        is_meeting: whether it is met, else decoded.
        killed_at: before which answer the child is killed, None for never.
        left_at: before which answer the pass is left, None for never.
    """

    name: str
    is_meeting: bool
    killed_at: int | None
    left_at: int | None


CALLS = st.lists(
    st.builds(
        Call,
        name=st.sampled_from(NAMES),
        is_meeting=st.booleans(),
        killed_at=st.none() | st.integers(0, len(SEGMENTS) - 1),
        left_at=st.none() | st.integers(1, len(SEGMENTS)),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoShelf:
    return VideoShelf(tmp_path_factory.mktemp("sequences"))


@pytest.fixture(scope="module")
def child() -> Iterator[DecodingChild]:
    with make(DecodingChild, videos_per_child=4) as started:
        yield started


def kill(reader: VideoReader) -> None:
    pid = getattr(reader, "pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def result(reader: VideoReader, path: Path, call: Call) -> tuple[list[Any], str | None]:
    """Return what a call gives and how it fails; only a child is killed on the way."""
    found: list[Any] = []
    try:
        if call.is_meeting:
            if call.killed_at is not None:
                kill(reader)
            found.append(str(reader.meet(path, is_hashed=False)))
        else:
            for number, outcome in enumerate(
                islice(reader.decode(path, SEGMENTS), call.left_at), start=1
            ):
                found.append(outcome)
                if number == call.killed_at:
                    kill(reader)
    except VideoError as error:
        return found, f"{error} {error.video_id}"
    return found, None


@pytest.mark.slow
@settings(max_examples=5)
@given(calls=CALLS)
def test_any_sequence_of_calls_and_kills_gives_what_one_process_gives(
    child: DecodingChild, videos: VideoShelf, calls: list[Call]
) -> None:
    reader = make(InProcessReader)
    for call in calls:
        found, fault = result(child, videos(call.name), call)
        expected, expected_fault = result(reader, videos(call.name), call)
        assert fault == expected_fault
        if call.is_meeting:
            assert found == expected
        else:
            assert_same(found, expected)
