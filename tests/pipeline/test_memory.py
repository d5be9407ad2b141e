"""Internalizing a long video takes no more memory than a short one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.video_factory import FPS, write_video

RUN = """
import json, resource, sys
from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
corpus, lake, model = sys.argv[1:]
config = InternalizeConfig(corpus=corpus, lake=lake, model=model)
summary = internalize_corpus(config, LocalEngine())
peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak_mib": peak_kib / 1024, "num_segments": summary.shards.num_segments}))
"""


def measure(directory: Path, model: str, *, minutes: int) -> dict[str, float]:
    video = write_video(
        directory / f"{minutes}min.mp4",
        numbers=range(minutes * 60 * FPS),
        size_px=(320, 180),
    )
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(video), str(directory / f"lake{minutes}"), model],
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path, model: str) -> None:
    short, long = (measure(tmp_path, model, minutes=minutes) for minutes in (2, 30))
    assert (short["num_segments"], long["num_segments"]) == (30, 450)
    assert long["peak_mib"] <= 1.1 * short["peak_mib"], (short, long)
