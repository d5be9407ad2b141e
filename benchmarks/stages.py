"""Where one segment's time goes, before (plain form) and after (ours), stage by stage.

    .venv/bin/python -m benchmarks.stages                                    # small, any machine
    .venv/bin/python -m benchmarks.stages --model smolvlm2-500m --pairs 3    # full size

Random weights of the model's own shape. Each stage is timed alone, the two ways in turns: CPU
seconds of one thread, or the device's seconds where a CUDA device computes. Files, codecs and
serialisation are the CPU's in both cases. Stages that have no plain counterpart count as nothing
before, and the other way round.

With a device, or `--throughput`, segments per second follow for several batch sizes, eager and (on
CUDA) as a recorded graph, with the achieved TFLOP/s beside a plain matrix product of the same run.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import _naive_path
from benchmarks._naive import NaiveResampler, swiglu
from benchmarks._pairs import seconds_of, surroundings
from benchmarks._sizes import naive_of
from benchmarks._verdict import finish, make_parser
from benchmarks._videos import write_corpus
from configs.load import load_model_config
from tasks.models import LoadedModel, load_model
from video2lora_core.adapter import adapter_bytes, adapter_from_bytes
from video2lora_core.compose import concat, with_bias
from video2lora_core.encoder import look, place, stream_blocks
from video2lora_core.frames import SegmentFrames, decode, probe
from video2lora_core.graphs import RecordedBatch, batch_factors
from video2lora_core.internalize import collate_pixels, collate_prompts, internalize
from video2lora_core.pixels import normalise, prepare
from video2lora_core.segments import Segment

MEDIUM = str(Path(__file__).with_name("medium.yaml"))
BATCHES = (1, 8, 32)
MATMUL_SIDE = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage, both ways; None where a way has no such stage."""

    name: str
    naive: Callable[[], object] | None
    ours: Callable[[], object] | None
    is_on_device: bool = True


def decoded_segment(model: LoadedModel, path: Path, num_frames: int) -> SegmentFrames:
    """Read the segment that everything is measured on."""
    found = probe(path)
    segment = Segment(start_us=0, end_us=found.duration_us)
    spec = model.vlm.pixel_spec
    (frames,) = decode(
        path, [segment], num_frames=num_frames, prepare=lambda frame: prepare(frame, spec)
    )
    assert isinstance(frames, SegmentFrames)
    return frames


def file_stages(model: LoadedModel, path: Path, frames: SegmentFrames) -> list[Stage]:
    """Return what happens to files and pictures before the model."""
    end_us, num_frames = frames.segment.end_us, len(frames.times_us)
    spec = model.vlm.pixel_spec
    pictures = _naive_path.frames(path, start_us=0, end_us=end_us, num_frames=num_frames)
    as_is: Callable[[np.ndarray], np.ndarray] = lambda frame: frame  # noqa: E731

    def decode_ours() -> None:
        list(decode(path, [frames.segment], num_frames=num_frames, prepare=as_is))

    return [
        Stage(name="probe", naive=None, ours=lambda: probe(path), is_on_device=False),
        Stage(
            name="decode",
            naive=lambda: _naive_path.frames(
                path, start_us=0, end_us=end_us, num_frames=num_frames
            ),
            ours=decode_ours,
            is_on_device=False,
        ),
        Stage(
            name="preprocess",
            naive=lambda: _naive_path.preprocess(
                pictures, longest_edge_px=spec.longest_edge_px, size_px=spec.size_px
            ),
            ours=lambda: [prepare(picture, spec) for picture in pictures],
            is_on_device=False,
        ),
    ]


def model_stages(model: LoadedModel, frames: SegmentFrames) -> list[Stage]:
    """Return what the device does, from pixels to factors."""
    vlm, hypernetwork = model.vlm, model.hypernetwork
    config = hypernetwork.config
    perceiver = hypernetwork.perceiver
    naive_net = naive_of(hypernetwork)
    naive_encoder = NaiveResampler(perceiver.encoder.state_dict())
    input_ids = collate_prompts(vlm, [frames])[0].to(vlm.device)
    pixels = collate_pixels([frames]).to(vlm.device)[0]
    pixel_values = normalise(pixels, dtype=vlm.dtype)
    embeddings = place(vlm, input_ids, look(vlm, pixel_values))
    kept: list[Tensor] = []
    stream_blocks(vlm, embeddings, layers=config.layers, consume=lambda _, x: kept.append(x))
    x_LTE = torch.cat(kept).to(naive_net.dtype)
    contexts = [perceiver.modality_projection(x[None]) for x in x_LTE]
    context_LTD = torch.cat(contexts)
    latents_LQD = perceiver.encoder(context_LTD, None)
    e = hypernetwork.embed(x_LTE)[None]

    def head_naive() -> object:
        latents = naive_net.perceiver.decoder(latents_LQD).float()
        u = naive_net.refine(latents.view(1, len(x_LTE), len(config.modules), config.rank, -1))
        return naive_net.combined(naive_net.factors(u))

    def head_ours() -> object:
        return perceiver.decoder(latents_LQD, None), hypernetwork.flat_factors(e, slice(None))

    def nothing(_layer: int, _x: Tensor) -> None:
        return None

    return [
        Stage(name="normalise", naive=None, ours=lambda: normalise(pixels, dtype=vlm.dtype)),
        Stage(
            name="vision",
            naive=lambda: vlm.model.model.connector(
                vlm.model.model.vision_model(pixel_values=pixel_values).last_hidden_state
            ),
            ours=lambda: look(vlm, pixel_values),
        ),
        Stage(
            name="language model",
            naive=lambda: _naive_path.decoder_features(vlm.model, embeddings),
            ours=lambda: stream_blocks(vlm, embeddings, layers=config.layers, consume=nothing),
        ),
        Stage(
            name="projection",
            naive=lambda: swiglu(x_LTE, naive_net.perceiver.modality_projection),
            ours=lambda: [perceiver.modality_projection(x[None]) for x in x_LTE],
        ),
        Stage(
            name="perceiver blocks",
            naive=lambda: naive_encoder(context_LTD),
            ours=lambda: perceiver.encoder(context_LTD, None),
        ),
        Stage(name="head", naive=head_naive, ours=head_ours),
    ]


def adapter_stages(model: LoadedModel, frames: SegmentFrames) -> list[Stage]:
    """Return what happens to factors: composed, written, read."""
    sha256 = model.checkpoint.sha256
    (adapter,) = internalize(model.vlm, model.hypernetwork, [frames], checkpoint_sha256=sha256)
    bias = {name: type(f)(a=f.a.cpu(), b=f.b.cpu()) for name, f in model.bias().items()}
    whole = with_bias(adapter, bias)
    plain = {
        f"{name}.{side}": t.contiguous()
        for name, f in whole.factors.items()
        for side, t in (("A", f.a), ("B", f.b))
    }
    data = adapter_bytes(adapter, dtype=torch.bfloat16)
    return [
        Stage(
            name="save",
            naive=lambda: save(plain),
            ours=lambda: adapter_bytes(adapter, dtype=torch.bfloat16),
            is_on_device=False,
        ),
        Stage(name="load", naive=None, ours=lambda: adapter_from_bytes(data), is_on_device=False),
        Stage(
            name="compose 8",
            naive=None,
            ours=lambda: with_bias(concat([adapter] * 8), bias),
            is_on_device=False,
        ),
    ]


def time_stages(
    stages: Sequence[Stage], *, num_pairs: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """Time every stage both ways, in turns."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for stage in stages:
        where = device if stage.is_on_device else "cpu"
        ways = [(n, run) for n, run in (("naive", stage.naive), ("ours", stage.ours)) if run]
        for _, run in ways:
            run()
        made: dict[str, list[float]] = {name: [] for name, _ in ways}
        for _ in range(num_pairs):
            for name, run in ways:
                made[name].append(seconds_of(run, device=where))
            ways.reverse()
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


def measured_stages(
    model: LoadedModel, folder: Path, *, num_frames: int, num_pairs: int
) -> tuple[SegmentFrames, dict[str, dict[str, list[float]]]]:
    (path,) = write_corpus(folder, count=1, size_px=(320, 240))
    frames = decoded_segment(model, path, num_frames)
    stages = file_stages(model, path, frames) + model_stages(model, frames)
    stages += adapter_stages(model, frames)
    return frames, time_stages(stages, num_pairs=num_pairs, device=str(model.vlm.device))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time every stage of one segment.", num_pairs=5)
    parser.add_argument("--model", default=MEDIUM, help="a model config's name or path")
    parser.add_argument("--throughput", action="store_true", help="batches too, also without CUDA")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    config = load_model_config(options.model, random_weights=True)
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
        "dtype": config.vlm.dtype,
        "num_tokens": int(collate_prompts(model.vlm, [frames])[0].shape[1]),
        "stages": seconds,
        "throughput": batches,
    }
    finish(measured, [], out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
