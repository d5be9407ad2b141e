"""How a shard's process ends: killed, told to end, out of disk. The next attempt completes it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.errors import StorageError
from storage.lake import Lake, open_lake
from tasks.summary import RunSummary
from tests.core.video_factory import FPS, write_video
from tests.pipeline.shard_fakes import threads_left, wait_until

NUM_SEGMENTS, SEGMENT_S = 30, 4
UNIT, AHEAD = 4, 3
SETTINGS = {
    "unit_segments": UNIT,
    "batch_segments": 2,
    "engine": "local",
    "decode": {"workers": 0, "ahead_segments": AHEAD},
}

# Writes a line per segment that reaches the device, and takes its time.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from tasks import internalize_batch

log = os.open(sys.argv[2], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
internalize = internalize_batch.internalize

def logging(vlm, hypernetwork, batch, **rest):
    os.write(log, b"segment\\n" * len(batch))
    time.sleep(0.1)
    return internalize(vlm, hypernetwork, batch, **rest)

internalize_batch.internalize = logging
internalize_corpus(InternalizeConfig(**json.loads(sys.argv[1])), LocalEngine())
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("film")
    return write_video(directory / "film.mp4", numbers=range(NUM_SEGMENTS * SEGMENT_S * FPS))


@pytest.fixture
def config(film: Path, tmp_path: Path, model: str) -> InternalizeConfig:
    lake = str(tmp_path / "lake")
    return InternalizeConfig(**{"corpus": str(film), "lake": lake, "model": model, **SETTINGS})


def num_lines(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def signalled(config: InternalizeConfig, log: Path, number: int) -> subprocess.Popen[str]:
    """Run in a process of its own and send a signal after seven more segments."""
    before = num_lines(log)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, config.model_dump_json(), str(log)],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: num_lines(log) >= before + 7 or process.poll() is not None, seconds=240)
    process.send_signal(number)
    return process


def finish(config: InternalizeConfig) -> RunSummary:
    return internalize_corpus(config, LocalEngine())


def segments(lake: Lake) -> list[int]:
    """Return where the segments with an adapter begin, each as often as it is there."""
    found = lake.query("select start_us from segments where outcome = 'adapter' order by 1")
    return found["start_us"].to_pylist()


def complete() -> list[int]:
    return [number * SEGMENT_S * 1_000_000 for number in range(NUM_SEGMENTS)]


@pytest.mark.slow
def test_a_kill_costs_at_most_a_unit_and_what_was_ahead(
    config: InternalizeConfig, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    num_kills = 3
    for _ in range(num_kills):
        signalled(config, log, signal.SIGKILL).communicate(timeout=60)
    last = finish(config)
    assert segments(open_lake(config.lake)) == complete()
    num_repeated = num_lines(log) + last.shards.num_segments - NUM_SEGMENTS
    assert 0 <= num_repeated <= num_kills * (UNIT + AHEAD)
    assert last.shards.num_compositions == 1


@pytest.mark.slow
def test_who_is_told_to_end_commits_what_is_complete_and_ends_soon(
    config: InternalizeConfig, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    process = signalled(config, log, signal.SIGTERM)
    started = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 128 + signal.SIGTERM, said
    # All that reached the device is in the lake, but for the last unit that was not complete, and
    # the batch that the signal met.
    assert len(segments(open_lake(config.lake))) >= num_lines(log) - (UNIT - 1) - 2
    finish(config)
    assert segments(open_lake(config.lake)) == complete()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_cleanly_with_one_error_and_the_next_run_completes(
    config: InternalizeConfig, small_disk: Path, corpus: Path
) -> None:
    config = config.model_copy(update={"lake": str(small_disk / "lake")})
    finish(config.model_copy(update={"corpus": str(corpus)}))
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (free - 160 * 1024))
    with pytest.raises(StorageError) as caught:
        finish(config)
    assert "\n" not in str(caught.value)
    assert "No space left" in str(caught.value)
    assert "space" in str(caught.value).partition(";")[2]
    assert threads_left() == []
    filler.unlink()
    found = open_lake(config.lake).query(
        "select a.adapter_sha256 from adapters a join segments s using (adapter_key)"
    )
    for sha256 in found["adapter_sha256"].to_pylist():
        open_lake(config.lake).adapters.get(sha256)
    finish(config)
    sql = "select missing_us, num_segments = num_adapters as is_whole from coverage"
    rows = open_lake(config.lake).query(sql).to_pylist()
    assert rows == [{"missing_us": 0, "is_whole": True}] * 3
