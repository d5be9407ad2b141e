"""Memory that ran out is told from a file that asked for too much."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.conftest import VideoShelf
from tests.core.video_factory import write_video
from video2lora_core.memory_limit import is_exhausted

READ = """
import json, resource, sys
from pathlib import Path
from tests.pipeline.decoding_readers import InProcessReader, make
from video2lora_core.errors import VideoError
from video2lora_core.memory_limit import address_space_bytes
from video2lora_core.segments import Segment

def read(path, act):
    try:
        act()
    except VideoError as error:
        return str(error.reason)
    return "OK"

paths, left_bytes = [Path(argument) for argument in sys.argv[2:]], int(sys.argv[1])
reader = make(InProcessReader)
limit = address_space_bytes() + left_bytes
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
span = [Segment(start_us=0, end_us=1_000_000)]
print(json.dumps([
    [read(path, lambda: reader.probe(path)), read(path, lambda: list(reader.decode(path, span)))]
    for path in paths
]))
"""


def reasons(*paths: Path, left_mib: int) -> list[list[str]]:
    """Probe and decode in a process that may take so much more memory, and return the reasons."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(left_mib * 1024**2), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[list[str]] = json.loads(done.stdout)
    return found


def test_without_a_limit_memory_is_never_said_to_have_run_out() -> None:
    assert not is_exhausted()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems hold no such limit")
def test_memory_that_runs_out_is_neither_damage_nor_a_codec_that_is_missing(tmp_path: Path) -> None:
    shelf = VideoShelf(tmp_path)
    corrupt = shelf("corrupt_moov.mp4")
    options = {"g": "8", "preset": "ultrafast"}
    large = write_video(
        tmp_path / "4k.mp4", numbers=range(8), size_px=(3840, 2160), options=options
    )
    assert reasons(corrupt, large, left_mib=1024) == [["CORRUPT_CONTAINER"] * 2, ["OK", "OK"]]
    # A frame has 12 MB, and 25 MB as RGB.
    assert reasons(large, left_mib=16) == [["DECODE_OOM", "DECODE_OOM"]]
    assert set(*reasons(large, left_mib=64)) <= {"OK", "DECODE_OOM"}
