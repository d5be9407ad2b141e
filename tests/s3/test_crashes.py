"""Workers killed at random moments and the server with them: nothing lost, nothing twice."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import open_lake
from storage.remote import file_system
from tasks.plan_run import plan_run
from tests.core.video_factory import write_video
from tests.s3.checks import check_whole
from tests.s3.servers import BUCKET, Server, restart, seaweed

pytestmark = pytest.mark.slow
NUM_VIDEOS = 40
NUM_SEGMENTS = 2 * NUM_VIDEOS  # of 4 s and 2 s
NUM_SHARDS = 3
NUM_KILLS = 8
WORKER = """
import sys
from configs.schema import InternalizeConfig
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
config = InternalizeConfig.model_validate_json(sys.argv[1])
print("at work", flush=True)
place = {"run_id": sys.argv[2], "shard": int(sys.argv[3]), "attempt_id": sys.argv[4]}
internalize_shard(config, LocalEngine(), **place)
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with seaweed() as running:
        yield running


class Workers:
    """One process per shard; a dead one is started again."""

    def __init__(self, config: InternalizeConfig, run_id: str, settings: dict[str, str]) -> None:
        self._arguments = [config.model_dump_json(), run_id]
        self._settings = {**os.environ, **settings}
        self._num_started = 0
        self.running = {shard: self._start(shard) for shard in range(NUM_SHARDS)}
        self.finished: set[int] = set()

    def kill(self, shard: int, *, after_s: float) -> bool:
        """SIGKILL a worker this long after its imports, and start its successor."""
        worker = self.running[shard]
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(after_s)
        if worker.poll() == 0:
            self.finished.add(shard)
            return False
        worker.kill()
        worker.communicate()
        self.running[shard] = self._start(shard)
        return True

    def stop(self) -> None:
        for worker in self.running.values():
            worker.kill()
            worker.communicate()

    def _start(self, shard: int) -> subprocess.Popen[bytes]:
        self._num_started += 1
        attempt = f"attempt-{self._num_started}"
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, *self._arguments, str(shard), attempt],
            env=self._settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


def test_kills_and_a_restarted_server_lose_nothing_and_repeat_nothing(
    server: Server, root: str, model: str, use: Any, tmp_path: Path
) -> None:
    settings = use(server.endpoint)
    corpus = f"{root}/videos"
    files = file_system(corpus, settings)
    for number in range(NUM_VIDEOS):
        path = write_video(tmp_path / "v.mp4", numbers=range(1000 * number, 1000 * number + 48))
        files.pipe_file(f"{corpus}/{number:02}.mp4", path.read_bytes())
    config = InternalizeConfig(
        corpus=corpus,
        lake=f"{root}/lake",
        model=model,
        unit_segments=4,
        shard_videos=-(-NUM_VIDEOS // NUM_SHARDS),
    )
    plan = plan_run(config, attempt_id="plan")
    assert plan.num_shards == NUM_SHARDS
    dice, num_kills = random.Random(7), 0
    workers = Workers(config, plan.run_id, settings)
    deadline, is_restarted = time.monotonic() + 150, False
    try:
        while num_kills < NUM_KILLS and len(workers.finished) < NUM_SHARDS:
            assert time.monotonic() < deadline, f"only {num_kills} kills"
            shard = dice.choice([s for s in range(NUM_SHARDS) if s not in workers.finished])
            num_kills += workers.kill(shard, after_s=dice.uniform(0.3, 3.0))
            if num_kills >= NUM_KILLS // 2 and not is_restarted:
                restart(server)
                is_restarted = True
    finally:
        workers.stop()
    assert num_kills >= 5
    assert is_restarted
    units = "select count(*) as n from runs where event = 'unit'"
    num_units = open_lake(config.lake).query(units).to_pylist()[0]["n"]
    assert num_units > 0, "the kills met work"
    summary = internalize_corpus(config, LocalEngine())
    assert summary.shards.num_rejects == 0
    check_whole(open_lake(config.lake), num_segments=NUM_SEGMENTS)
    again = internalize_corpus(config, LocalEngine())
    assert again.plan.num_shards == 0, "the final run left nothing to do"
    left = [name for name in files.find(f"{BUCKET}") if ".tmp" in name]
    assert left == []
