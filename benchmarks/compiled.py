"""Would torch.compile pay? Eager against compiled, from pixels to factors.

    .venv/bin/python -m benchmarks.compiled --pairs 5

What is compiled is the batch of one shape (`video2lora_core/graphs.py`, `batch_factors`), as a
whole, with fixed shapes. Two sizes: the embedded default with 16 segments, and two layers of both
towers of the 500M at full width with random weights, 12 frames, one segment. Each is compiled once
from an empty cache, by one compiler at a time; what that costs (CPU seconds, the C++ compiler's
included) is divided by what a batch gains: so many batches of one shape until it has paid.

Outputs must agree to 1e-5 in float32. A size that cannot be compiled as a whole is reported with
torch's first line and not timed. No bar: the figures decide (docs/decisions.md). `--device cuda`
takes the device's seconds for batches; compiling stays the CPU's.
"""

import resource
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
import torch._inductor.config
from rich.console import Console
from torch import Tensor

from benchmarks._pairs import TOLERANCE, seconds_of, surroundings
from benchmarks._question_room import slice_of_500m
from benchmarks._sizes import BenchModel, random_full_width
from benchmarks._turns import Line, compared, turns_table
from benchmarks._verdict import finish, make_parser
from configs.load import load_model_config
from tasks.models import load_model
from video2lora_core.graphs import batch_factors
from video2lora_core.vlm import internalization_ids

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model and the batch that it is given."""

    name: str
    """What people read."""
    model: BenchModel
    """VLM and hypernetwork."""
    num_segments: int
    """Segments of the batch."""
    num_frames: int
    """Frames of a segment."""
    segment_us: int
    """Length of a segment."""
    num_calls: int
    """Calls in one timing."""


def small_size(num_segments: int = 16, *, device: str = "cpu") -> Size:
    config = load_model_config("tiny")
    there = config.vlm.model_copy(update={"device": device})
    loaded = load_model(config.model_copy(update={"vlm": there}))
    return Size(
        name=f"embedded default, {num_segments} segments",
        model=BenchModel(vlm=loaded.vlm, hypernetwork=loaded.hypernetwork),
        num_segments=num_segments,
        num_frames=config.segments.num_frames,
        segment_us=config.segments.segment_us,
        num_calls=5,
    )


def slice_size(num_layers: int = 2, *, device: str = "cpu") -> Size:
    vlm = slice_of_500m(num_layers=num_layers, num_videos=1).vlm
    vlm.model.to(device)
    hypernetwork = random_full_width("smolvlm2-500m", num_layers=num_layers).to(device)
    return Size(
        name=f"500M, {num_layers} layers of both towers, 1 segment",
        model=BenchModel(vlm=vlm, hypernetwork=hypernetwork),
        num_segments=1,
        num_frames=12,
        segment_us=30_000_000,
        num_calls=1,
    )


def batch_of(size: Size) -> tuple[Tensor, Tensor]:
    """Draw the pixels of a batch and write its prompts."""
    vlm, step_us = size.model.vlm, size.segment_us // size.num_frames
    times_us = [step_us // 2 + step_us * frame for frame in range(size.num_frames)]
    ids = internalization_ids(vlm, times_us, size.segment_us)
    edge = 2 * [vlm.pixel_spec.size_px]
    generator = torch.Generator().manual_seed(SEED)
    shape = (size.num_segments, size.num_frames, 3, *edge)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    input_ids = torch.tensor([ids] * size.num_segments)
    return pixels.to(vlm.device), input_ids.to(vlm.device)


def forward_of(size: Size) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the way from pixels to all factors in one tensor, to be compared."""

    def forward(pixels: Tensor, input_ids: Tensor) -> Tensor:
        made = batch_factors(size.model.vlm, size.model.hypernetwork, pixels, input_ids)
        return torch.cat([part.flatten() for f in made.values() for part in (f.a, f.b)])

    return forward


def cpu_s() -> float:
    """Return the CPU seconds of this process and of the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def compiled_of(size: Size) -> tuple[Callable[[Tensor, Tensor], Tensor], dict[str, Any]]:
    """Compile a size's forward and call it once; return it and what that took."""
    torch._dynamo.reset()
    made = torch.compile(forward_of(size), fullgraph=True, dynamic=False)
    start_s, start_wall_s = cpu_s(), time.perf_counter()
    # One thread: compiling happens in this process, whose seconds are counted.
    alone = torch._inductor.config.patch(compile_threads=1, force_disable_caches=True)
    try:
        with alone, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that caches are off
            made(*batch_of(size))
    except RuntimeError as error:  # Dynamo's, Inductor's and the C++ compiler's are all of it
        return made, {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return made, {
        "compile_cpu_s": cpu_s() - start_s,
        "compile_wall_s": time.perf_counter() - start_wall_s,
    }


def shape_of(size: Size) -> dict[str, Any]:
    """Return what the batch and the model measure."""
    return {
        "num_segments": size.num_segments,
        "num_frames": size.num_frames,
        "size_px": size.model.vlm.pixel_spec.size_px,
        "num_tokens": batch_of(size)[1].shape[1],
        "num_layers": len(size.model.hypernetwork.config.layers),
        "dtype": str(size.model.vlm.dtype).removeprefix("torch."),
    }


def timed(
    ways: Mapping[str, Callable[[], Tensor]], size: Size, *, num_pairs: int
) -> dict[str, list[float]]:
    """Time the ways in turns, by the device's own seconds where it is no CPU."""
    device = str(size.model.vlm.device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways.items())
    for _ in range(num_pairs):
        for name, run in order:
            seconds[name].append(seconds_of(run, size.num_calls, device=device))
        order.reverse()
    return seconds


def compare(size: Size, *, num_pairs: int) -> tuple[list[Line], dict[str, Any]]:
    """Compile a size, compare outputs, then time both forms in turns."""
    compiled, told = compiled_of(size)
    if "failed" in told:
        return [], told
    batch, eager = batch_of(size), forward_of(size)
    expected = eager(*batch)
    deviation = float((compiled(*batch) - expected).abs().max() / expected.abs().max())
    if not deviation <= TOLERANCE:  # also when it is no number
        return [], told | {"failed": f"outputs differ by {deviation:.1e} of the largest"}

    ways = {"eager": lambda: eager(*batch), "compiled": lambda: compiled(*batch)}
    (line,) = compared(
        size.name,
        "pixels to factors",
        timed(ways, size, num_pairs=num_pairs),
        [("eager", "compiled")],
    )
    gain = statistics.median(line.ratios) - 1
    paid = told["compile_cpu_s"] / (gain * line.fast_s) if gain > 0 else None
    return [line], told | {"deviation": deviation, "batches_until_paid": paid}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time eager against compiled batches.", num_pairs=5)
    parser.add_argument("--device", default="cpu", help="where the models are (default: cpu)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    sizes = [small_size(1 if options.quick else 16, device=options.device)]
    if not options.quick:
        sizes.append(slice_size(device=options.device))
    made: list[Line] = []
    told: dict[str, Any] = {}
    with torch.no_grad():
        for size in sizes:
            found, told[size.name] = compare(size, num_pairs=options.pairs)
            made += found
    console = Console(width=150)
    console.print(turns_table(made))
    for name, each in told.items():
        console.print(f"{name}: {each}", highlight=False)
    measured = here | {
        "shape": {size.name: shape_of(size) for size in sizes},
        "lines": [line.row() for line in made],
        "compiled": told,
    }
    finish(measured, [], out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
