"""What the quality gate rejects: good segments it should pass, odd pictures, and planted faults.

Everything runs on the embedded default with the bounds in its checkpoint; the held-out segments
come from seeds that neither training nor calibration has used.
"""

import argparse
import copy
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._pairs import surroundings
from configs.load import load_model_config
from tasks.calibrate import FIRST_SEED, rendered_segments
from tasks.models import LoadedModel, load_model
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.frames import SegmentFrames
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.internalize import internalize
from video2lora_core.quality import check, squared_norms

HELD_OUT_SEED = FIRST_SEED + 1_000_000
BATCH = 16
NUM_FAULTY = 64  # segments under each fault

Verdicts = dict[str, dict[str, int]]


def verdicts(model: LoadedModel, adapters: Sequence[Adapter]) -> dict[str, int]:
    """Count what the gate says about adapters."""
    counts = {"segments": len(adapters), "passed": 0, "NON_FINITE": 0, "NORM_OUTLIER": 0}
    for adapter in adapters:
        fault = check(adapter, model.checkpoint.bounds, squared_norms(adapter))
        counts["passed" if fault is None else str(fault[0])] += 1
    return counts


def made_by(
    model: LoadedModel, hypernetwork: Hypernetwork, segments: Sequence[SegmentFrames]
) -> list[Adapter]:
    return [
        adapter
        for start in range(0, len(segments), BATCH)
        for adapter in internalize(
            model.vlm,
            hypernetwork,
            segments[start : start + BATCH],
            checkpoint_sha256=model.checkpoint.sha256,
        )
    ]


def odd_pictures(segments: Sequence[SegmentFrames]) -> Iterator[tuple[str, list[SegmentFrames]]]:
    """Yield segments whose frames show what no training video showed."""
    shape = segments[0].pixels.shape
    rng = np.random.default_rng(0)
    columns, rows = np.meshgrid(np.arange(shape[-1]), np.arange(shape[-2]))
    slope = np.stack([5 * columns, 5 * rows, 2 * (columns + rows)]).astype(np.uint8)
    pictures = {
        "frames of pure noise": [rng.integers(0, 256, shape, dtype=np.uint8) for _ in segments],
        "black frames": [np.zeros(shape, np.uint8)],
        "white frames": [np.full(shape, 255, np.uint8)],
        "a still gradient": [np.broadcast_to(slope, shape).copy()],
        "negatives": [255 - segment.pixels for segment in segments],
        "half as bright": [segment.pixels // 2 for segment in segments],
    }
    for name, made in pictures.items():
        yield name, [replace(segments[0], pixels=pixels) for pixels in made]


def scaled(adapter: Adapter, *, a: float = 1.0, b: float = 1.0) -> Adapter:
    factors = {name: Factors(a=a * f.a, b=b * f.b) for name, f in adapter.factors.items()}
    return replace(adapter, factors=factors)


def with_one_number(adapter: Adapter, value: float) -> Adapter:
    broken = scaled(adapter)
    next(iter(broken.factors.values())).b[-1, -1, -1] = value
    return broken


ADAPTER_FAULTS: dict[str, Callable[[Adapter], Adapter]] = {
    "one NaN": lambda adapter: with_one_number(adapter, math.nan),
    "one infinity": lambda adapter: with_one_number(adapter, math.inf),
    "one number is 1e6": lambda adapter: with_one_number(adapter, 1e6),
    "zeroed": lambda adapter: scaled(adapter, b=0.0),
    "B times 8": lambda adapter: scaled(adapter, b=8.0),
    "A times 8": lambda adapter: scaled(adapter, a=8.0),
    "B times 4": lambda adapter: scaled(adapter, b=4.0),
    "B times 2": lambda adapter: scaled(adapter, b=2.0),
    "B times -1": lambda adapter: scaled(adapter, b=-1.0),
    "B divided by 8": lambda adapter: scaled(adapter, b=1 / 8),
    "B divided by 64": lambda adapter: scaled(adapter, b=1 / 64),
}


def damaged(hypernetwork: Hypernetwork, damage: Callable[[torch.Tensor], object]) -> Hypernetwork:
    """Copy a hypernetwork and damage its head's slice of the second covered layer."""
    copied = copy.deepcopy(hypernetwork)
    with torch.no_grad():
        damage(copied.head.weight[1])
    return copied


def _shuffle(weight: torch.Tensor) -> None:
    order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
    weight.copy_(weight.flatten()[order].view_as(weight))


def _flip_exponent(weight: torch.Tensor) -> None:
    weight[0, 0] = weight[0, 0].abs().clamp_min(1e-3) * 2.0**64  # one exponent bit


LAYER_FAULTS: dict[str, Callable[[torch.Tensor], object]] = {
    "one layer's head: times 8": lambda weight: weight.mul_(8.0),
    "one layer's head: times 4": lambda weight: weight.mul_(4.0),
    "one layer's head: zeroed": lambda weight: weight.zero_(),
    "one layer's head: one exponent bit": _flip_exponent,
    "one layer's head: shuffled": _shuffle,
}


def measure(model: LoadedModel, segments: Sequence[SegmentFrames]) -> Verdicts:
    good = made_by(model, model.hypernetwork, segments)
    few = segments[:NUM_FAULTY]
    rows = {"held-out segments": verdicts(model, good)}
    for name, odd in odd_pictures(few):
        rows[name] = verdicts(model, made_by(model, model.hypernetwork, odd))
    for name, spoil in ADAPTER_FAULTS.items():
        rows[name] = verdicts(model, [spoil(adapter) for adapter in good[:NUM_FAULTY]])
    for name, damage in LAYER_FAULTS.items():
        broken = damaged(model.hypernetwork, damage)
        rows[name] = verdicts(model, made_by(model, broken, few))
    return rows


def table(rows: Verdicts) -> Table:
    made = Table(title="What the quality gate says")
    made.add_column("adapters of")
    for heading in ("segments", "passed", "NON_FINITE", "NORM_OUTLIER"):
        made.add_column(heading, justify="right")
    for name, counts in rows.items():
        made.add_row(name, *map(str, counts.values()))
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Show what the quality gate passes and rejects.")
    parser.add_argument("--segments", type=int, default=400, help="held-out ones (default: 400)")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    options = parser.parse_args(arguments)
    config = load_model_config("tiny")
    model = load_model(config)
    rendered = rendered_segments(config, first_seed=HELD_OUT_SEED)
    rows = measure(model, list(itertools.islice(rendered, options.segments)))
    Console().print(table(rows))
    if options.out:
        measured = surroundings() | {"verdicts": rows}
        options.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
