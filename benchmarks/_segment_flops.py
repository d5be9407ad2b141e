"""The arithmetic of one segment at a full-size shape, counted without any weights or memory.

Products are counted where they happen; attention is let happen as two plain products, which no
fused kernel would count. At a smaller side of the frames there are fewer patches in the tower, and
fewer visual tokens in everything behind it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._sizes import BenchModel, fake_model
from configs.load import load_model_config
from configs.schema import ModelConfig
from video2lora_core.encoder import look, stream_blocks
from video2lora_core.factor_stream import FactorStream
from video2lora_core.vision_square import image_tokens
from video2lora_core.vlm import internalization_ids


def segment_flops(name: str, *, sides_px: Sequence[int]) -> list[dict[str, Any]]:
    """Count one segment's FLOPs, from pixels to factors, at each side of the frames."""
    config = load_model_config(name)
    rows: list[dict[str, Any]] = []
    with fake_model(name, dtype=torch.bfloat16) as model:
        for side_px in sides_px:
            with (
                torch.no_grad(),
                sdpa_kernel(SDPBackend.MATH),
                FlopCounterMode(display=False) as counter,
            ):
                num_tokens = _run(model, config, side_px)
            rows.append(
                {
                    "model": name,
                    "side_px": side_px,
                    "tokens_per_frame": image_tokens(model.vlm.model.config, side_px),
                    "num_tokens": num_tokens,
                    "flops": counter.get_total_flops(),
                }
            )
    return rows


def _run(model: BenchModel, config: ModelConfig, side_px: int) -> int:
    tokens = image_tokens(model.vlm.model.config, side_px)
    vlm = replace(model.vlm, image_tokens_per_frame=tokens)
    rule, layers = config.segments, model.hypernetwork.config.layers
    ids = internalization_ids(vlm, [0] * rule.num_frames, rule.segment_us)
    look(vlm, torch.empty(rule.num_frames, 3, side_px, side_px, dtype=vlm.dtype))
    stream = FactorStream(model.hypernetwork, mask=None)
    embeddings = torch.empty(1, len(ids), vlm.d_model, dtype=vlm.dtype)
    stream_blocks(vlm, embeddings, layers=layers, consume=stream.take)
    stream.finish()
    return len(ids)
