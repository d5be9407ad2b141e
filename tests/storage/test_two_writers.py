"""Two live processes on one shard: every unit once, nothing lost, nothing twice."""

import multiprocessing
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from storage.identity import adapter_key, sha256_hex
from storage.lake import Lake, open_lake

NUM_UNITS = 8
UNIT_SEGMENTS = 3
SEGMENT_US = 10_000_000


def write_shard(root: str, worker: str, results: Any) -> None:
    """Do every unit of the shard, as if alone; each worker's bytes are its own."""
    lake = open_lake(root)
    common = {"recipe_id": "r", "worker": worker}
    while (unit := lake.next_unit("run", 0)) < NUM_UNITS:
        adapters = [_adapter(lake, unit * UNIT_SEGMENTS + i, worker) for i in range(UNIT_SEGMENTS)]
        rows = {"adapters": adapters, "segments": _segments, "compositions": _compositions}
        outcome = lake.commit_unit(run_id="run", shard=0, unit=unit, rows=rows, common=common)
        results.put((worker, unit, outcome))


def _adapter(lake: Lake, position: int, worker: str) -> dict[str, Any]:
    start_us = position * SEGMENT_US
    data = f"{position}/{worker}".encode()
    return {
        "adapter_key": adapter_key("r", "v", start_us, start_us + SEGMENT_US),
        "adapter_sha256": lake.adapters.put(data),
        "video_id": "v",
        "start_us": start_us,
        "end_us": start_us + SEGMENT_US,
        "frame_times_us": [start_us],
        "prompt": "p",
        "model_name": "m",
        "model_weights_sha256": "w",
        "checkpoint_sha256": "c",
        "code_version": "1",
        "rank": 1,
        "layers": [0],
        "modules": ["down_proj"],
        "scaling": 1.0,
        "dtype": "bfloat16",
        "size_bytes": len(data),
    }


def _segments(committed: Any) -> list[dict[str, Any]]:
    names = ("adapter_key", "video_id", "start_us", "end_us")
    done = {"outcome": "adapter", "is_done": True}
    return [{**{name: row[name] for name in names}, **done} for row in committed]


def _compositions(committed: Any) -> list[dict[str, Any]]:
    parents = [row["adapter_sha256"] for row in committed]
    return [
        {
            "composition_id": sha256_hex("".join(parents).encode()),
            "parents": parents,
            "coefficients": [1.0] * len(parents),
            "method": "concat",
            "rank": len(parents),
            "num_segments": len(parents),
            "relative_error": 0.0,
            "checkpoint_sha256": "c",
        }
    ]


def test_two_live_writers_of_one_shard_commit_every_unit_once(tmp_path: Path) -> None:
    open_lake(tmp_path, create=True)
    # Spawned: delta-rs' runtime does not survive a fork.
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=write_shard, args=(str(tmp_path), name, results)) for name in "ab"
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    told = [results.get(timeout=5) for _ in range(results.qsize())]
    committed = [unit for _, unit, outcome in told if outcome == "committed"]
    assert sorted(committed) == list(range(NUM_UNITS))
    _check(open_lake(tmp_path))


@pytest.mark.slow
def test_writers_that_are_killed_again_and_again_lose_and_double_nothing(tmp_path: Path) -> None:
    lake = open_lake(tmp_path, create=True)
    context = multiprocessing.get_context("spawn")
    delays = random.Random(0)
    while lake.next_unit("run", 0) < NUM_UNITS:
        known = lake.next_unit("run", 0)
        # A queue of its own for each: a killed writer may leave its queue locked.
        results = context.Queue()
        worker = context.Process(
            target=write_shard, args=(str(tmp_path), f"writer-{known}", results)
        )
        worker.start()
        while worker.is_alive() and lake.next_unit("run", 0) == known:
            time.sleep(0.01)
        time.sleep(delays.uniform(0, 0.1))
        assert worker.exitcode in (None, 0)
        worker.kill()
        worker.join()
    _check(lake)


def _check(lake: Lake) -> None:
    adapters = lake.table("adapters").to_pylist()
    keys = Counter(row["adapter_key"] for row in adapters)
    assert len(keys) == NUM_UNITS * UNIT_SEGMENTS
    assert set(keys.values()) == {1}
    assert lake.table("segments").num_rows == len(keys)
    assert lake.table("runs").num_rows == lake.table("compositions").num_rows == NUM_UNITS
    made = {row["adapter_sha256"] for row in adapters}
    named = {sha for row in lake.table("compositions").to_pylist() for sha in row["parents"]}
    assert named == made
    for unit in range(NUM_UNITS):
        # One attempt's adapters win a unit as a whole.
        assert len({row["worker"] for row in adapters if row["unit"] == unit}) == 1
