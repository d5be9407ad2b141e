"""Whatever a video does to its decoder, the caller gets a reason in bounded time and goes on."""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema import MIN_MEMORY_BYTES, ModelConfig
from tasks.decoding_child import DecodingChild, InProcessReader
from tests.core.video_factory import NUM_FRAMES, write_video
from tests.pipeline.decoding_readers import (
    MODEL,
    SEGMENTS,
    MisbehavingChild,
    assert_same,
    assert_serves,
    is_alive,
    make,
    plan_fault,
)
from video2lora_core.errors import Reason, UsageError, VideoError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("whole") / "whole.mp4")


@pytest.fixture
def video(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(whole, tmp_path / "video.mp4"))


@pytest.fixture
def misbehaving() -> Iterator[Callable[..., DecodingChild]]:
    children: list[DecodingChild] = []

    def start(**limits: Any) -> DecodingChild:
        children.append(make(MisbehavingChild, **limits))
        return children[-1]

    yield start
    for child in children:
        child.close()


def decoded_until_fault(child: DecodingChild, video: Path) -> tuple[list[Any], VideoError]:
    found: list[Any] = []
    with pytest.raises(VideoError) as caught:
        found.extend(child.decode(video, SEGMENTS))
    return found, caught.value


# Each of these happens twice: once, and once more in the fresh child that tries what is left.
@pytest.mark.parametrize(
    ("kind", "reason", "detail", "limits"),
    [
        ("segfault", Reason.DECODE_CRASH, "SIGSEGV", {}),
        pytest.param("abort", Reason.DECODE_CRASH, "SIGABRT", {}, marks=pytest.mark.slow),
        pytest.param("exit", Reason.DECODE_CRASH, "status 3", {}, marks=pytest.mark.slow),
        pytest.param("fail", Reason.DECODE_CRASH, "foresaw", {}, marks=pytest.mark.slow),
        pytest.param(
            "spin", Reason.DECODE_TIMEOUT, "processor", {"cpu_s": 1}, marks=pytest.mark.slow
        ),
        pytest.param(
            "eat memory",
            Reason.DECODE_OOM,
            "no memory is left",
            {"memory_bytes": MIN_MEMORY_BYTES},
            marks=pytest.mark.slow,
        ),
        *(
            pytest.param(
                kind, Reason.DECODE_TIMEOUT, "within 5 s", {"timeout_s": 5}, marks=pytest.mark.slow
            )
            for kind in ("sleep", "sleep holding the interpreter", "stop")
        ),
    ],
)
def test_a_fault_has_its_reason_and_what_was_decoded_before_stays(
    misbehaving: Callable[..., DecodingChild],
    video: Path,
    whole: Path,
    kind: str,
    reason: Reason,
    detail: str,
    limits: dict[str, Any],
) -> None:
    child = misbehaving(**limits)
    # Frame 50 is in the third segment; two are handed over before.
    plan_fault(video, kind, times=2, after=50)
    started = time.monotonic()
    found, error = decoded_until_fault(child, video)
    assert error.reason == reason
    assert detail in error.detail
    assert "video.mp4" in error.detail
    assert time.monotonic() - started < 120
    assert_same(found, list(make(InProcessReader).decode(video, SEGMENTS))[:2])
    assert (child.num_started, child.pid) == (2, None)
    assert_serves(child, whole)


@pytest.mark.slow
def test_what_is_left_after_one_fault_comes_from_a_fresh_child(
    misbehaving: Callable[..., DecodingChild], video: Path
) -> None:
    child = misbehaving()
    plan_fault(video, "segfault", times=1, after=50)
    assert_serves(child, video)
    assert child.num_started == 2


@pytest.mark.slow
def test_a_file_that_breaks_the_probe_keeps_its_hash(
    misbehaving: Callable[..., DecodingChild], video: Path
) -> None:
    child = misbehaving()
    plan_fault(video, "segfault", times=2, where="probe")
    with pytest.raises(VideoError) as caught:
        child.meet(video, is_hashed=False)
    assert caught.value.reason == Reason.DECODE_CRASH
    assert caught.value.video_id == make(InProcessReader).identify(video)


@pytest.mark.slow
def test_a_child_works_at_most_one_segment_ahead(
    misbehaving: Callable[..., DecodingChild], video: Path
) -> None:
    large = {**MODEL.model_dump(), "pixels": {"longest_edge_px": 384, "size_px": 512}}
    child = make(MisbehavingChild, model=ModelConfig.model_validate(large))
    try:
        answers = child.decode(video, SEGMENTS)
        next(answers)
        log = video.with_suffix(".log")
        num_decoded = -1
        while num_decoded != (now := len(log.read_text().splitlines())):
            num_decoded = now
            time.sleep(1)
        # Two of four segments and the frames that wait to be put in order, of 80.
        assert num_decoded <= NUM_FRAMES // 2 + 8
        assert len(list(answers)) == 3
    finally:
        child.close()


@pytest.mark.slow
def test_a_reader_closed_by_another_thread_stops_waiting(
    misbehaving: Callable[..., DecodingChild], video: Path
) -> None:
    child = misbehaving()
    child.meet(video, is_hashed=True)
    pid = child.pid
    assert pid is not None
    plan_fault(video, "sleep holding the interpreter", times=1)
    threading.Timer(2, child.close).start()
    with pytest.raises(UsageError, match="closed"):
        next(iter(child.decode(video, SEGMENTS)))
    assert not is_alive(pid)
    assert child.num_started == 1


ORPHAN = """
import os, signal, sys, threading
from pathlib import Path
from tests.pipeline.decoding_readers import SEGMENTS, MisbehavingChild, make
path = Path(sys.argv[1])
child = make(MisbehavingChild)
child.meet(path, is_hashed=True)
print(child.pid, flush=True)
threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
next(child.decode(path, SEGMENTS))
"""


@pytest.mark.slow
def test_a_child_dies_with_its_parent(video: Path) -> None:
    plan_fault(video, "sleep holding the interpreter", times=1)
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, str(video)], capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(pid)
