"""The stages of one segment, each as two calls: the plain form, and ours.

Files and codecs, the model from pixels to factors, factors as files, and a question. Stages that
have no plain counterpart have no call for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from benchmarks import _naive_path
from benchmarks._naive import NaiveResampler, swiglu
from benchmarks._sizes import naive_of
from tasks.models import LoadedModel
from video2lora_core.adapter import Adapter, Factors, adapter_bytes, adapter_from_bytes
from video2lora_core.answer import answer, answer_in_context
from video2lora_core.compose import concat, with_bias
from video2lora_core.encoder import look, place, stream_blocks
from video2lora_core.frames import SegmentFrames, decode, probe
from video2lora_core.internalize import collate_pixels, collate_prompts, internalize
from video2lora_core.pixels import normalise, prepare
from video2lora_core.segments import Segment

QUESTION = "what is in the video"
NUM_NEW_TOKENS = 4


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


def made_adapter(model: LoadedModel, frames: SegmentFrames) -> tuple[Adapter, dict[str, Factors]]:
    """Internalize the segment; return its adapter and the bias, both on the CPU."""
    sha256 = model.checkpoint.sha256
    (adapter,) = internalize(model.vlm, model.hypernetwork, [frames], checkpoint_sha256=sha256)
    return adapter, {name: Factors(a=f.a.cpu(), b=f.b.cpu()) for name, f in model.bias().items()}


def adapter_stages(model: LoadedModel, frames: SegmentFrames) -> list[Stage]:
    """Return what happens to factors: composed, written, read."""
    adapter, bias = made_adapter(model, frames)
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


def answer_stages(model: LoadedModel, frames: SegmentFrames) -> list[Stage]:
    """Return one short question: with the segment in context, and from its adapter in memory."""
    adapter, bias = made_adapter(model, frames)
    whole = with_bias(adapter, bias)
    pixels, times_us = frames.pixels, frames.times_us
    known: dict[str, Any] = {"duration_us": frames.segment.end_us, "max_new_tokens": NUM_NEW_TOKENS}
    return [
        Stage(
            name="answer",
            naive=lambda: answer_in_context(model.vlm, pixels, times_us, [QUESTION], **known),
            ours=lambda: answer(
                model.vlm, [QUESTION], adapters=whole, max_new_tokens=NUM_NEW_TOKENS
            ),
        )
    ]
