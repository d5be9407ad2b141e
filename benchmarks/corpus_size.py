"""Cost per video against the size of the corpus: 10 to 1,000 videos, and one or two workers.

    .venv/bin/python -m benchmarks.corpus_size --pairs 5

Videos of one segment, the embedded default, decoding in the process itself. Every figure is a
process of its own, which loads the model and does a first small run before anything is counted.
Then it plans, internalizes, composes and publishes a corpus into a new lake. What is counted is CPU
time of that process, so a busy machine changes little; sizes take turns.

A run has a fixed part (tables are created, views built). It falls out of the difference between
two sizes, so the cost per video is taken from 10 to 100 and from 100 to 1,000 videos, and the slope
is the change from the one to the other per tenfold corpus. Bars: the slope's 95% interval is not
above 0, and the peak memory of the largest run is at most 5% above that of the smallest.
"""

import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks._pairs import surroundings
from benchmarks._verdict import Verdict, at_most, finish, make_parser
from benchmarks._videos import write_corpus
from configs.schema import DecodeConfig, InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine

SIZES = (10, 100, 1000)
WARM_UP = 10
BATCH_SEGMENTS = 5  # the smallest run fills two, or it would need less memory for its small batch
# Two-sided 95% points of Student's t, by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def internalized(videos: Path, lake: Path) -> tuple[float, float]:
    """Run a corpus into a lake; return CPU and wall seconds."""
    config = InternalizeConfig(
        corpus=str(videos),
        lake=str(lake),
        engine="local",
        decode=DecodeConfig(workers=0),
        batch_segments=BATCH_SEGMENTS,
    )
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    internalize_corpus(config, LocalEngine())
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


def one_size(folder: Path, size: int) -> dict[str, float]:
    """Measure one size in this process; the first run is not counted."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder) as lakes:
        internalized(folder / f"videos-{WARM_UP}", Path(lakes) / "first")
        cpu_s, wall_s = internalized(folder / f"videos-{size}", Path(lakes) / "second")
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"cpu_s": cpu_s, "wall_s": wall_s, "peak_mib": peak_kib / 1024}


def in_own_process(folder: Path, size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.corpus_size", "--one", str(size)]
    done = subprocess.run(
        [*command, "--folder", str(folder)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def rounds(folder: Path, sizes: Sequence[int], *, num_rounds: int) -> list[dict[int, Any]]:
    """Measure all sizes in turns."""
    made = []
    order = list(sizes)
    for _ in range(num_rounds):
        made.append({size: in_own_process(folder, size) for size in order})
        order.reverse()
    return made


def marginal_costs(measured: dict[int, dict[str, float]]) -> dict[int, float]:
    """Return CPU seconds per video between each size and the one before it.

    The difference of two runs has no fixed part in it.
    """
    sizes = sorted(measured)
    return {
        large: (measured[large]["cpu_s"] - measured[small]["cpu_s"]) / (large - small)
        for small, large in pairwise(sizes)
    }


def slopes(measured: Sequence[dict[int, dict[str, float]]]) -> list[float]:
    """Return each round's change of the cost per video for ten times as many videos, as a share."""
    made = []
    for each in measured:
        costs = marginal_costs(each)
        first, last = min(costs), max(costs)
        made.append((costs[last] / costs[first] - 1) / math.log10(last / first))
    return made


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the mean (Student's t)."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return -math.inf, math.inf
    t = T_95.get(len(values) - 1, 2.0)
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def judge(measured: Sequence[dict[int, dict[str, float]]]) -> list[Verdict]:
    found = slopes(measured)
    low, high = interval(found)
    sizes = sorted(measured[0])
    costs = {
        size: statistics.median(marginal_costs(each)[size] for each in measured)
        for size in sizes[1:]
    }
    shown = ", ".join(f"{1e3 * cost:.1f} ms to {size}" for size, cost in costs.items())
    peaks = [each[sizes[-1]]["peak_mib"] / each[sizes[0]]["peak_mib"] for each in measured]
    return [
        at_most(
            "low end of the slope's 95% interval (share per tenfold corpus)",
            low,
            0.0,
            detail=f"[{low:.3f}, {high:.3f}], {len(found)} rounds; per video {shown}",
        ),
        at_most(
            f"peak memory at {sizes[-1]} over that at {sizes[0]} videos",
            statistics.median(peaks),
            1.05,
            detail=f"{min(peaks):.3f} - {max(peaks):.3f}",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Measure cost per video against corpus size.", num_pairs=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="videos")
    parser.add_argument("--one", type=int, help="measure this size here and print it as JSON")
    parser.add_argument("--folder", type=Path, help="with --one: where the corpora are")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(one_size(options.folder, options.one)))
        return
    here = surroundings()
    sizes = [2, 4, 8] if options.quick else sorted(options.sizes)
    with tempfile.TemporaryDirectory() as folder:
        for size in {WARM_UP, *sizes}:
            write_corpus(Path(folder) / f"videos-{size}", count=size)
        measured = rounds(Path(folder), sizes, num_rounds=options.pairs)
    whole: dict[str, Any] = here | {
        "shape": {"sizes": sizes, "model": "tiny", "segments_per_video": 1},
        "rounds": [{str(size): found for size, found in each.items()} for each in measured],
        "slopes": slopes(measured),
    }
    finish(whole, judge(measured), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
