"""Workers that die at any moment, and workers that do the same work at once: nothing is lost."""

import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from configs.schema import DecodeConfig, InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.identity import sha256_hex
from storage.lake import Lake, open_lake
from tasks import internalize_units
from tasks.plan_run import plan_run
from tests.core.video_factory import write_video
from tests.pipeline.crash_worker import PHASES, journalled

NUM_VIDEOS = 200
SEGMENTS_PER_VIDEO = 2  # 6 s at 8 frames per second, segments of 4 s, tails from 2 s
NUM_WORKERS = 3
MIN_KILLS = 20
UNIT_SEGMENTS = 4
AHEAD_SEGMENTS = 8
ROOT = Path(__file__).parents[2]
TAG = "VIDEO2LORA_TEST_TAG"

pytestmark = pytest.mark.slow


@dataclass(kw_only=True)
class Fleet:
    """Worker processes of one run, each with shards of its own, begun again when killed."""

    config: InternalizeConfig
    run_id: str
    directory: Path
    tag: str
    num_shards: int = 1
    workers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return self.directory / "journal"

    def start(self, name: int, shards: Sequence[int]) -> None:
        phases = self._phases(name)
        phases.write_bytes(bytes(len(PHASES)))
        command = [sys.executable, "-m", "tests.pipeline.crash_worker"]
        arguments = [self.journal, phases, self.config.model_dump_json(), self.run_id, *shards]
        with (self.directory / f"stderr{name}").open("ab") as stderr:
            self.workers[name] = subprocess.Popen(
                [*command, *map(str, arguments)],
                cwd=ROOT,
                env={**os.environ, TAG: self.tag, "PYTHONPATH": str(ROOT)},
                stderr=stderr,
            )

    def is_in(self, name: int, phase: str) -> bool:
        return self._phases(name).read_bytes()[PHASES.index(phase)] > 0

    def is_running(self, name: int) -> bool:
        return self.workers[name].poll() is None

    def kill(self, name: int) -> None:
        self.workers[name].kill()
        self.workers[name].wait()

    def failures(self) -> list[str]:
        codes = [worker.wait() for worker in self.workers.values()]
        return [
            (self.directory / f"stderr{name}").read_text()[-2000:]
            for name, code in zip(self.workers, codes, strict=True)
            if code != 0
        ]

    def _phases(self, name: int) -> Path:
        return self.directory / f"phases{name}"


def tagged_processes(tag: str) -> list[int]:
    """List the living processes that were started, however indirectly, with our tag."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = f"{TAG}={tag}".encode() in (process / "environ").read_bytes().split(b"\0")
            is_alive = "\nState:\tZ" not in (process / "status").read_text()
        except OSError:
            continue
        if is_ours and is_alive:
            found.append(int(process.name))
    return found


def make_corpus(directory: Path, numbers: range) -> Path:
    directory.mkdir(exist_ok=True)
    for number in numbers:
        first = 100 * number
        write_video(directory / f"{number:03d}.mp4", numbers=range(first, first + 48))
    return directory


def make_config(corpus: Path, lake: Path, model: str, **changed: object) -> InternalizeConfig:
    values = {
        "corpus": str(corpus),
        "lake": str(lake),
        "model": model,
        "unit_segments": UNIT_SEGMENTS,
        "batch_segments": 4,
        "shard_videos": 10,
        "decode": DecodeConfig(ahead_segments=AHEAD_SEGMENTS),
    }
    return InternalizeConfig(**{**values, **changed})


def check_lake(lake: Lake, *, num_videos: int) -> None:
    """Every segment exactly once in the views, every row's file there and whole."""
    tiled = lake.query(
        "select count(*) n, sum(num_adapters) a, sum(abs(missing_us)) m from coverage"
    )
    assert tiled.to_pylist() == [{"n": num_videos, "a": num_videos * SEGMENTS_PER_VIDEO, "m": 0}]
    for view, key in (("adapters_latest", "adapter_key"), ("segments", "adapter_key")):
        counted = lake.query(f"select count(*) n, count(distinct {key}) d from {view}").to_pylist()
        assert counted == [{"n": num_videos * SEGMENTS_PER_VIDEO, "d": counted[0]["n"]}], view
    assert lake.query("select * from open_rejects").num_rows == 0
    rows = lake.query("select adapter_sha256 from raw.adapters")["adapter_sha256"].to_pylist()
    for sha256 in set(rows):
        assert sha256_hex(lake.adapters.get(sha256)) == sha256
    composed = lake.query("select count(distinct video_id) n from compositions_latest").to_pylist()
    assert composed == [{"n": num_videos}]


def wait_until_inside(fleet: Fleet, name: int, phase: str) -> bool:
    """Wait for a worker to be in a phase; False where it ended before."""
    while fleet.is_running(name):
        if fleet.is_in(name, phase):
            return True
        time.sleep(0.0005)
    return False


def kill_at_random(fleet: Fleet, shards: dict[int, list[int]], *, seed: int) -> dict[str, int]:
    """Kill workers in phases drawn by lot and start them again, until enough were killed."""
    rng = random.Random(seed)
    kills = dict.fromkeys(PHASES, 0)
    while sum(kills.values()) < MIN_KILLS + 4:
        running = [name for name in fleet.workers if fleet.is_running(name)]
        if not running:
            break
        name = rng.choice(running)
        phase = min(PHASES, key=lambda phase: (kills[phase], rng.random()))
        if not wait_until_inside(fleet, name, phase):
            continue
        time.sleep(rng.uniform(0, 0.02))
        fleet.kill(name)
        kills[phase] += 1
        fleet.start(name, shards[name])
    return kills


@pytest.fixture
def fleet(tmp_path: Path, model: str) -> Iterator[Fleet]:
    corpus = make_corpus(tmp_path / "videos", range(NUM_VIDEOS))
    config = make_config(corpus, tmp_path / "lake", model)
    planned = plan_run(config, attempt_id="planner")
    fleet = Fleet(config=config, run_id=planned.run_id, directory=tmp_path, tag=uuid.uuid4().hex)
    fleet.num_shards = planned.num_shards
    yield fleet
    for worker in fleet.workers.values():
        worker.kill()


def test_workers_killed_at_random_moments_lose_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {n: list(range(n, fleet.num_shards, NUM_WORKERS)) for n in range(NUM_WORKERS)}
    for name, mine in shards.items():
        fleet.start(name, mine)
    kills = kill_at_random(fleet, shards, seed=7)
    assert fleet.failures() == []
    make = internalize_units.internalize_batch
    monkeypatch.setattr(internalize_units, "internalize_batch", journalled(fleet.journal, make))
    internalize_corpus(fleet.config, LocalEngine())

    num_kills = sum(kills.values())
    done = sum(map(int, fleet.journal.read_text().split()))
    repeated = done - NUM_VIDEOS * SEGMENTS_PER_VIDEO
    sys.stderr.write(f"{num_kills} kills {kills}, {repeated} segments done again\n")
    assert num_kills >= MIN_KILLS
    assert min(kills.values()) >= 3
    check_lake(open_lake(fleet.config.lake), num_videos=NUM_VIDEOS)
    assert 0 <= repeated <= num_kills * (UNIT_SEGMENTS + AHEAD_SEGMENTS)
    assert tagged_processes(fleet.tag) == []


def test_two_workers_on_one_shard_do_it_once(tmp_path: Path, model: str) -> None:
    corpus = make_corpus(tmp_path / "videos", range(12))
    config = make_config(corpus, tmp_path / "lake", model, shard_videos=100)
    planned = plan_run(config, attempt_id="planner")
    assert planned.num_shards == 1
    tag = uuid.uuid4().hex
    fleet = Fleet(config=config, run_id=planned.run_id, directory=tmp_path, tag=tag)
    for name in range(2):
        fleet.start(name, [0])
    assert fleet.failures() == []
    lake = open_lake(config.lake)
    check_lake(lake, num_videos=12)
    closed = lake.query("select unit, count(*) n from raw.runs where event = 'unit' group by 1")
    assert set(closed["n"].to_pylist()) == {1}


def test_two_runs_over_overlapping_corpora_share_their_videos(tmp_path: Path, model: str) -> None:
    make_corpus(tmp_path / "videos", range(12))
    manifests = {}
    for name, numbers in (("first", range(8)), ("second", range(4, 12))):
        manifests[name] = tmp_path / f"{name}.csv"
        lines = ["uri", *(f"videos/{number:03d}.mp4" for number in numbers)]
        manifests[name].write_text("\n".join(lines) + "\n", encoding="utf-8")
    fleets = []
    configs = [make_config(path, tmp_path / "lake", model) for path in manifests.values()]
    plans = [plan_run(config, attempt_id=uuid.uuid4().hex) for config in configs]
    for index, (config, planned) in enumerate(zip(configs, plans, strict=True)):
        directory = tmp_path / f"run{index}"
        directory.mkdir()
        fleet = Fleet(
            config=config, run_id=planned.run_id, directory=directory, tag=uuid.uuid4().hex
        )
        fleet.start(0, list(range(planned.num_shards)))
        fleets.append(fleet)
    assert [fleet.failures() for fleet in fleets] == [[], []]
    check_lake(open_lake(tmp_path / "lake"), num_videos=12)
    done_before = internalize_corpus(configs[0], LocalEngine())
    assert done_before.plan.num_shards == 0
