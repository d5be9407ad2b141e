"""Internalizing a long video takes no more memory than a short one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.video_factory import FPS, write_video
from tests.pipeline.test_decoding_memory import FPS as GOP_FPS
from tests.pipeline.test_decoding_memory import GOP_FRAMES, repeated

# Of the shard's process; what its decoding children take is in test_decoding_memory.py. Not
# ru_maxrss, which a process inherits from the one that started it.
RUN = """
import json, sys
from pathlib import Path
from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
corpus, lake, model = sys.argv[1:]
config = InternalizeConfig(corpus=corpus, lake=lake, model=model)
summary = internalize_corpus(config, LocalEngine())
peak_kib = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps({"peak_mib": peak_kib / 1024, "num_segments": summary.shards.num_segments}))
"""


def measure(video: Path, model: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(video), str(video.with_suffix("")), model],
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc"),
]


def test_peak_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path, model: str) -> None:
    short, long = (
        measure(
            write_video(
                tmp_path / f"{minutes}min.mp4",
                numbers=range(minutes * 60 * FPS),
                size_px=(320, 180),
            ),
            model,
        )
        for minutes in (2, 30)
    )
    assert (short["num_segments"], long["num_segments"]) == (30, 450)
    assert long["peak_mib"] <= 1.1 * short["peak_mib"], (short, long)


@pytest.mark.parametrize(
    ("size_px", "minutes"), [((1280, 720), 60), ((3840, 2160), 10)], ids=["720p", "4K"]
)
def test_long_and_large_videos_are_internalized_in_the_memory_of_short_ones(
    tmp_path: Path, model: str, size_px: tuple[int, int], minutes: int
) -> None:
    options = {"g": str(GOP_FRAMES), "bf": "2", "preset": "ultrafast"}
    gop = write_video(
        tmp_path / "gop.mp4",
        fps=GOP_FPS,
        numbers=range(GOP_FRAMES),
        size_px=size_px,
        options=options,
    )
    short = measure(repeated(gop, tmp_path / "short.mp4", seconds=120), model)
    long = measure(repeated(gop, tmp_path / "long.mp4", seconds=minutes * 60), model)
    assert (short["num_segments"], long["num_segments"]) == (30, minutes * 15)
    sys.stderr.write(f"{size_px}, {minutes} minutes: short {short}, long {long}\n")
    assert long["peak_mib"] <= 1.15 * short["peak_mib"], (short, long)
