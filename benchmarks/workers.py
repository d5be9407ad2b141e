"""One worker and two: how much sooner a planned run is done, and what two cores allow at all.

    .venv/bin/python -m benchmarks.workers --pairs 5

A corpus of real mp4 files, the embedded default, a run planned in two shards. Two worker processes
load the model, do a small run each and then wait. A round, on fresh lakes each time:

    one         worker 0 does both shards, one after the other
    two         worker 0 and worker 1 do a shard each, side by side, into the same lake
    apart       the same, into a lake each: nothing is shared but the machine

Shards go through `flows.internalize_shard`, as a deployment's do; videos are decoded in the worker
itself (`decode.workers: 0`), and each worker is held to a core of its own: left free, one worker's
threads take 1.5 cores, and two would be held against that. Wall time, from the signal to the last
answer. Bar: `two` at least 1.7 times as fast as `one`. What `apart` reaches is the machine's bound:
where both cores are slowed by memory, heat or other work, it is below 2 too.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks._pairs import surroundings
from benchmarks._verdict import Verdict, at_least, finish, make_parser
from benchmarks._videos import write_corpus
from configs.schema import DecodeConfig, InternalizeConfig
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
from tasks.models import load_model
from tasks.plan_run import plan_run
from tasks.recipe import make_recipe

NUM_VIDEOS = 256
NUM_WORKERS = 2
WAYS = ("one", "two", "apart")
ROOT = Path(__file__).resolve().parents[1]


class Worker:
    """A process on one core that has loaded the model and does shards when told."""

    def __init__(self, core: int) -> None:
        command = [sys.executable, "-m", "benchmarks.workers", "--work", str(core)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def tell(self, config: InternalizeConfig, run_id: str, shards: Sequence[int]) -> None:
        """Give it shards of a run; returns at once."""
        assert self._process.stdin is not None
        order = {"config": config.model_dump_json(), "run_id": run_id, "shards": list(shards)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def told(self) -> dict[str, float]:
        """Wait until it has done what it was told; returns its CPU seconds and its segments."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"workers: one ended with {self._process.wait()}; see above")
        found: dict[str, float] = json.loads(line)
        return found

    def end(self) -> None:
        """Let it end: its input is closed."""
        self._process.communicate()


@contextmanager
def working(count: int) -> Iterator[list[Worker]]:
    """Give so many workers, which end with the block."""
    workers = [Worker(core) for core in range(count)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def work(core: int) -> None:
    """Do what comes in on stdin, an order a line, until it is closed."""
    if sys.platform == "linux":  # elsewhere the system decides
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})
    torch.set_num_threads(1)
    for line in sys.stdin:
        order = json.loads(line)
        config = InternalizeConfig.model_validate_json(order["config"])
        load_model(make_recipe(config).model)
        cpu_s, num_segments = time.process_time(), 0
        for shard in order["shards"]:
            done = internalize_shard(
                config, LocalEngine(), run_id=order["run_id"], shard=shard, attempt_id="bench"
            )
            num_segments += done.num_segments
        answer = {"cpu_s": time.process_time() - cpu_s, "num_segments": num_segments}
        print(json.dumps(answer), flush=True)


class Corpus:
    """Videos, and fresh lakes to internalize them into."""

    def __init__(self, folder: Path, *, num_videos: int) -> None:
        self.num_videos = num_videos
        self._folder, self._num_lakes = folder, 0
        write_corpus(folder / "videos", count=num_videos)

    def planned(self) -> tuple[InternalizeConfig, str]:
        """Plan the corpus into a fresh lake, a shard for each worker."""
        self._num_lakes += 1
        config = InternalizeConfig(
            corpus=str(self._folder / "videos"),
            lake=str(self._folder / f"lake-{self._num_lakes}"),
            engine="local",
            decode=DecodeConfig(workers=0),
            shard_videos=self.num_videos // NUM_WORKERS,
        )
        planned = plan_run(config, attempt_id="bench")
        assert planned.num_shards == NUM_WORKERS, planned
        return config, planned.run_id

    def orders(self, way: str) -> list[tuple[InternalizeConfig, str, list[int]]]:
        """Return what each worker is told, lakes planned beforehand."""
        config, run_id = self.planned()
        if way == "one":
            return [(config, run_id, [0, 1])]
        other, other_id = self.planned() if way == "apart" else (config, run_id)
        return [(config, run_id, [0]), (other, other_id, [1])]


def measured_round(corpus: Corpus, workers: Sequence[Worker], way: str) -> dict[str, float]:
    """Do the corpus once; return wall seconds and the CPU seconds of all workers."""
    orders = corpus.orders(way)
    start = time.perf_counter()
    for worker, order in zip(workers, orders, strict=False):
        worker.tell(*order)
    found = [worker.told() for worker, _ in zip(workers, orders, strict=False)]
    wall_s = time.perf_counter() - start
    num_segments = sum(each["num_segments"] for each in found)
    if num_segments != corpus.num_videos:
        raise SystemExit(
            f"workers: {way}: {num_segments:.0f} segments were internalized (expected "
            f"{corpus.num_videos}); see the rejects of its lake"
        )
    return {"wall_s": wall_s, "cpu_s": sum(each["cpu_s"] for each in found)}


def rounds(corpus: Corpus, *, num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """Measure all ways in turns; a first pass of each is not counted."""
    made: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    order = list(WAYS)
    with working(NUM_WORKERS) as workers:
        measured_round(corpus, workers, "apart")  # loads the models, and all that comes once
        for _ in range(num_rounds):
            for way in order:
                made[way].append(measured_round(corpus, workers, way))
            order.reverse()
    return made


def gains(measured: Mapping[str, Sequence[Mapping[str, float]]], way: str) -> list[float]:
    """Return how many times as fast as one worker a way was, round by round."""
    pairs = zip(measured["one"], measured[way], strict=True)
    return [one["wall_s"] / other["wall_s"] for one, other in pairs]


def judge(measured: Mapping[str, Sequence[Mapping[str, float]]]) -> list[Verdict]:
    found, bound = gains(measured, "two"), gains(measured, "apart")
    times = ", ".join(
        f"{way} {statistics.median(each['wall_s'] for each in measured[way]):.1f} s" for way in WAYS
    )
    return [
        at_least(
            "two workers, over one",
            statistics.median(found),
            1.7,
            detail=f"{min(found):.2f} - {max(found):.2f}; {times}; two that share no lake reach "
            f"{statistics.median(bound):.2f} ({min(bound):.2f} - {max(bound):.2f})",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time a run done by one worker and by two.", num_pairs=5)
    parser.add_argument("--videos", type=int, default=NUM_VIDEOS, help="videos, an even number")
    parser.add_argument("--work", type=int, metavar="CORE", help="be a worker: do what stdin says")
    options = parser.parse_args(arguments)
    if options.work is not None:
        work(options.work)
        return
    torch.set_num_threads(1)
    here = surroundings()
    num_videos = 4 if options.quick else options.videos
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder), num_videos=num_videos)
        measured = rounds(corpus, num_rounds=options.pairs)
    whole: dict[str, Any] = here | {
        "shape": {"num_videos": num_videos, "num_shards": NUM_WORKERS, "model": "tiny"},
        "rounds": measured,
        "gains": {way: gains(measured, way) for way in WAYS[1:]},
        "cpu_over_one": {
            way: [
                each["cpu_s"] / one["cpu_s"]
                for one, each in zip(measured["one"], measured[way], strict=True)
            ]
            for way in WAYS[1:]
        },
    }
    finish(whole, judge(measured), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
