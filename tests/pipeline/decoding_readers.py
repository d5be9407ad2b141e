"""What the tests of decoding children share: readers of a small size, and how to compare them."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from configs.schema import DecodeConfig, ModelConfig
from tasks.decoding_child import DecodingChild, InProcessReader
from tests.core.video_factory import DURATION_US
from video2lora_core.frames import SegmentFrames, SegmentReject
from video2lora_core.segments import tile

MODEL = ModelConfig.model_validate(
    {
        "name": "none",
        "vlm": {"path": "none"},
        "checkpoint": "none",
        "pixels": {"longest_edge_px": 96, "size_px": 96},
        "segments": {"segment_s": 2.5, "min_tail_s": 1.0, "num_frames": 4},
    }
)
SEGMENTS = tile(DURATION_US, segment_us=2_500_000, min_tail_us=0)


class MisbehavingChild(DecodingChild):
    program = "tests.pipeline.misbehaving_child"


def make(kind: type, *, model: ModelConfig = MODEL, decoder: str = "pyav", **limits: Any) -> Any:
    return kind(model=model, decoder=decoder, limits=DecodeConfig(**limits))


def plan_fault(
    video: Path, kind: str, *, times: int, where: str = "frames", after: int = 0
) -> None:
    plan = {"kind": kind, "times": times, "where": where, "after": after}
    video.with_suffix(".plan").write_text(json.dumps(plan))


def assert_same(found: list[Any], expected: list[Any]) -> None:
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, SegmentReject):
            assert one == other
            continue
        assert isinstance(one, SegmentFrames)
        np.testing.assert_array_equal(one.pixels, other.pixels)
        for field in ("segment", "times_us", "num_unique_frames", "max_lag_us", "flags"):
            assert getattr(one, field) == getattr(other, field)


def is_alive(pid: int) -> bool:
    """Whether there is such a process; a zombie is one too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def open_files() -> set[str]:
    """The numbers of this process's open files; none where the system does not tell."""
    directory = Path("/proc/self/fd")
    return {file.name for file in directory.iterdir()} if directory.is_dir() else set()


def assert_serves(child: DecodingChild, video: Path) -> None:
    """The next video is met and decoded as if nothing had been."""
    reader = make(InProcessReader)
    assert child.meet(video, is_hashed=False) == reader.meet(video, is_hashed=False)
    assert_same(list(child.decode(video, SEGMENTS)), list(reader.decode(video, SEGMENTS)))
