"""Where one segment's time goes, before (plain form) and after (ours), stage by stage.

    .venv/bin/python -m benchmarks.stages                       # the 500M, 4 GB and some minutes
    .venv/bin/python -m benchmarks.stages --model benchmarks/medium.yaml     # seconds

Random weights of the model's own shape. Each stage is timed alone, the two ways in turns: CPU
seconds of one thread, or the device's seconds where a CUDA device computes. Files, codecs and
serialisation are the CPU's in both cases. Stages that have no plain counterpart count as nothing
before. "answer" is one short question: before with the segment in context, after from its adapter.

With a device, or `--throughput`, segments per second follow for several batch sizes, eager and (on
CUDA) as a recorded graph, with the achieved TFLOP/s beside a plain matrix product of the same run.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._pairs import seconds_of, surroundings
from benchmarks._stages import (
    Stage,
    adapter_stages,
    answer_stages,
    decoded_segment,
    file_stages,
    model_stages,
)
from benchmarks._verdict import finish, make_parser
from benchmarks._videos import write_corpus
from configs.load import load_model_config
from tasks.models import LoadedModel, load_model
from video2lora_core.frames import SegmentFrames
from video2lora_core.graphs import RecordedBatch, batch_factors
from video2lora_core.internalize import collate_pixels, collate_prompts

MODEL = "smolvlm2-500m"
MEDIUM = str(Path(__file__).with_name("medium.yaml"))
FRAME_PX = (320, 240)
WARM_S = 1.0
BATCHES = (1, 8, 32)
MATMUL_SIDE = 8192


def time_stages(
    stages: Sequence[Stage], *, num_pairs: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """Time every stage both ways, in turns.

    Stages of under a second run once before: what a first call loads would weigh on them.
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for stage in stages:
        where = device if stage.is_on_device else "cpu"
        ways = [(n, run) for n, run in (("naive", stage.naive), ("ours", stage.ours)) if run]
        made = {name: [seconds_of(run, device=where)] for name, run in ways}
        if max(max(first) for first in made.values()) < WARM_S:
            made = {name: [] for name, _ in ways}
        while len(made[ways[0][0]]) < num_pairs:
            ways.reverse()
            for name, run in ways:
                made[name].append(seconds_of(run, device=where))
        seconds[stage.name] = made
    return seconds


def matmul_flops_per_s(device: str, dtype: torch.dtype, *, side: int) -> float:
    """Measure a plain matrix product: what this device reaches at best."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / min(seconds_of(lambda: a @ b, device=device) for _ in range(3))


def throughput(
    model: LoadedModel, frames: SegmentFrames, *, batches: Sequence[int], num_pairs: int, side: int
) -> dict[str, Any]:
    """Measure segments per second from pixels on the device to factors on it."""
    vlm, device = model.vlm, str(model.vlm.device)
    best = matmul_flops_per_s(device, vlm.dtype, side=side)
    rows = []
    for count in batches:
        pixels = collate_pixels([frames] * count).to(device)
        input_ids = collate_prompts(vlm, [frames] * count)[0].to(device)
        with FlopCounterMode(display=False) as counter:
            batch_factors(vlm, model.hypernetwork, pixels, input_ids)
        flops = counter.get_total_flops() / count
        ways: dict[str, Callable[[], object]] = {
            "eager": lambda p=pixels, i=input_ids: batch_factors(vlm, model.hypernetwork, p, i)  # type: ignore[misc]
        }
        if vlm.device.type == "cuda":
            recorded = RecordedBatch(vlm, model.hypernetwork, pixels, input_ids)
            ways["graph"] = lambda r=recorded, p=pixels, i=input_ids: r(p, i)  # type: ignore[misc]
        for name, run in ways.items():
            spent = statistics.median(seconds_of(run, device=device) for _ in range(num_pairs))
            rows.append(
                {
                    "batch_segments": count,
                    "way": name,
                    "segments_per_s": count / spent,
                    "tflop_per_s": flops * count / spent / 1e12,
                    "share_of_matmul": flops * count / spent / best,
                }
            )
    return {"matmul_tflop_per_s": best / 1e12, "flop_per_segment": flops, "rows": rows}


def shown(seconds: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    made = Table(title="One segment, milliseconds: median (least - largest)")
    for heading in ("stage", "naive", "ours", "naive over ours"):
        made.add_column(heading, justify="left" if heading == "stage" else "right")
    for name, ways in seconds.items():
        cells = [
            f"{1e3 * statistics.median(s):.2f} ({1e3 * min(s):.2f} - {1e3 * max(s):.2f})"
            if (s := ways.get(way))
            else ""
            for way in ("naive", "ours")
        ]
        pairs = zip(ways.get("naive", ()), ways.get("ours", ()), strict=False)
        ratios = [naive / ours for naive, ours in pairs if ours]
        made.add_row(name, *cells, f"{statistics.median(ratios):.2f}x" if ratios else "")
    return made


def shape_of(model: LoadedModel, frames: SegmentFrames) -> dict[str, Any]:
    """Return what the segment and the model measure."""
    return {
        "num_frames": len(frames.times_us),
        "num_tokens": int(collate_prompts(model.vlm, [frames])[0].shape[1]),
        "size_px": model.vlm.pixel_spec.size_px,
        "num_layers": len(model.hypernetwork.config.layers),
        "d_model": model.hypernetwork.config.d_model,
        "dtype": str(model.vlm.dtype).removeprefix("torch."),
        "file": {"frame": list(FRAME_PX), "duration_us": frames.segment.end_us},
    }


def measured_stages(
    model: LoadedModel, folder: Path, *, num_frames: int, num_pairs: int
) -> tuple[SegmentFrames, dict[str, dict[str, list[float]]]]:
    (path,) = write_corpus(folder, count=1, size_px=FRAME_PX)
    frames = decoded_segment(model, path, num_frames)
    stages = file_stages(model, path, frames) + model_stages(model, frames)
    stages += adapter_stages(model, frames) + answer_stages(model, frames)
    return frames, time_stages(stages, num_pairs=num_pairs, device=str(model.vlm.device))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time every stage of one segment.", num_pairs=3)
    parser.add_argument("--model", default=MODEL, help=f"a model config (default: {MODEL})")
    parser.add_argument("--throughput", action="store_true", help="batches too, also without CUDA")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    name = MEDIUM if options.quick else options.model
    config = load_model_config(name, random_weights=True)
    model = load_model(config)
    is_on_cuda = model.vlm.device.type == "cuda"
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        frames, seconds = measured_stages(
            model,
            Path(folder),
            num_frames=config.segments.num_frames,
            num_pairs=options.pairs,
        )
        Console(width=120).print(shown(seconds))
        batches: dict[str, Any] = {}
        if is_on_cuda or options.throughput:
            batches = throughput(
                model,
                frames,
                batches=BATCHES if is_on_cuda else (1, 2),
                num_pairs=options.pairs,
                side=MATMUL_SIDE if is_on_cuda else 512,
            )
            Console(width=120).print(batches)
    measured = here | {
        "model": config.name,
        "shape": shape_of(model, frames),
        "stages": seconds,
        "throughput": batches,
    }
    finish(measured, [], out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
