"""How two ways to compute the same thing are compared: agree first, then time in pairs.

A pair is one timing of each way, the first place taken in turns; what counts is the ratio of a
pair, because a busy machine slows both. Seconds are CPU seconds of this process, or the device's
own where a CUDA device computes (events around the calls). FLOPs are counted, so their ratio is
the same on every machine.
"""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

LIBRARIES = ("transformers", "av", "numpy", "pyarrow", "deltalake", "duckdb", "safetensors")
TOLERANCE = 1e-5  # largest deviation, relative to the largest output, in float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Contest:
    """The same function computed twice: plainly and our way."""

    subject: str
    """What is computed, and on what."""
    part: str
    """Which part of it."""
    shape: Mapping[str, Any]
    """Its widths and counts."""
    naive: Callable[[], Tensor]
    """The function by its definition."""
    ours: Callable[[], Tensor]
    """The function as the project computes it."""
    num_calls: int
    """Calls in one timing: more where one call is short."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a contest gave."""

    contest: Contest
    """What was compared."""
    deviation: float
    """Largest deviation of ours from naive, relative to the largest output."""
    naive_flops: int
    """Floating point operations in naive's matrix products, counted."""
    ours_flops: int
    """The same of ours."""
    naive_s: tuple[float, ...]
    """CPU seconds per call of naive, pair by pair."""
    ours_s: tuple[float, ...]
    """CPU seconds per call of ours, pair by pair."""

    @property
    def ratios(self) -> list[float]:
        """Naive over ours, pair by pair."""
        return [naive / ours for naive, ours in zip(self.naive_s, self.ours_s, strict=True)]

    def row(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {
            "subject": self.contest.subject,
            "part": self.contest.part,
            "shape": dict(self.contest.shape),
            "num_calls": self.contest.num_calls,
            "deviation": self.deviation,
            "naive_flops": self.naive_flops,
            "ours_flops": self.ours_flops,
            "naive_s": list(self.naive_s),
            "ours_s": list(self.ours_s),
            "ratios": self.ratios,
            "median_ratio": statistics.median(self.ratios),
        }


def measure(
    contest: Contest, *, num_pairs: int, device: str = "cpu", tolerance: float = TOLERANCE
) -> Outcome:
    """Check that both outputs agree, count both, then time them in interleaved pairs."""
    (naive, naive_flops), (ours, ours_flops) = _counted(contest.naive), _counted(contest.ours)
    deviation = float((ours - naive).abs().max() / naive.abs().max())
    if not deviation <= tolerance:  # also when it is no number
        raise SystemExit(
            f"{contest.subject}, {contest.part}: outputs differ (found {deviation:.1e} of the "
            f"largest, expected at most {tolerance:.0e}); nothing was timed: correct ours first"
        )
    seconds: dict[str, list[float]] = {"naive": [], "ours": []}
    ways = [("naive", contest.naive), ("ours", contest.ours)]
    for _ in range(num_pairs):
        for name, run in ways:
            seconds[name].append(seconds_of(run, contest.num_calls, device=device))
        ways.reverse()
    return Outcome(
        contest=contest,
        deviation=deviation,
        naive_flops=naive_flops,
        ours_flops=ours_flops,
        naive_s=tuple(seconds["naive"]),
        ours_s=tuple(seconds["ours"]),
    )


def _counted(run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    with FlopCounterMode(display=False) as counter:
        output = run()
    return output, counter.get_total_flops()


def seconds_of(run: Callable[[], object], num_calls: int = 1, *, device: str = "cpu") -> float:
    """Return the seconds of one call: of this process's CPUs, or of the CUDA device."""
    if torch.device(device).type == "cuda":
        return _device_s(run, num_calls)
    start_s = time.process_time()
    for _ in range(num_calls):
        run()
    return (time.process_time() - start_s) / num_calls


def _device_s(run: Callable[[], object], num_calls: int) -> float:
    run()  # kernels are loaded and chosen at a shape's first call
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(num_calls):
        run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / num_calls


def table(outcomes: Sequence[Outcome]) -> Table:
    """Lay the outcomes out, one per row."""
    made = Table(title="Naive over ours: median, least and largest of the pairs")
    made.add_column("what")
    made.add_column("part")
    for heading in ("deviation", "CPU time", "min - max", "FLOPs"):
        made.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        ratios = outcome.ratios
        made.add_row(
            outcome.contest.subject,
            outcome.contest.part,
            f"{outcome.deviation:.0e}",
            f"{statistics.median(ratios):.2f}x",
            f"{min(ratios):.2f} - {max(ratios):.2f}",
            f"{outcome.naive_flops / outcome.ours_flops:.2f}x",
        )
    return made


def surroundings() -> dict[str, Any]:
    """Say when, where and with what this process measures."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv[1:],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "video2lora": version("video2lora"),
        "versions": {name: version(name) for name in LIBRARIES},
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "load_average": list(os.getloadavg()),
    }


def _cpu_name() -> str:
    """Return the processor's name where Linux tells it."""
    told = Path("/proc/cpuinfo")
    if not told.is_file():
        return platform.processor()
    lines = told.read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
