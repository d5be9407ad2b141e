"""Frames to factors as the definition reads, one segment at a time (docs/method.md).

The baseline of the benchmarks, apart from the fast code: every hidden state of transformers' own
forward, stacked; the perceiver of `_naive.py` over all layers at once; residual MLP, normalisation
and head in float32; the bias concatenated to every adapter. `frames` and `preprocess` are the plain
way to a segment's pixels: decode everything, resize twice with PIL, convert to float, make the mask
of real pixels, which is all ones.

Weights come as a state dict with the released names, so nothing of the fast code is imported.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

from benchmarks._naive import NaivePerceiver, below

LAYER_NORM_EPS = 1e-5
Pair = tuple[Tensor, Tensor]


def frames(path: Path, *, start_us: int, end_us: int, num_frames: int) -> list[np.ndarray]:
    """Decode a file from its start to the span's end; keep the frames at sub-spans' centres."""
    span_us = (end_us - start_us) / num_frames
    wanted_us = [start_us + (index + 0.5) * span_us for index in range(num_frames)]
    found: list[np.ndarray] = []
    shown = None
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.time is not None
            while shown is not None and len(found) < num_frames:
                if wanted_us[len(found)] >= frame.time * 1e6:
                    break
                found.append(shown.to_ndarray(format="rgb24", threads=1))
            shown = frame
    assert shown is not None
    rest = num_frames - len(found)
    return found + [shown.to_ndarray(format="rgb24", threads=1)] * rest


def preprocess(
    pictures: Sequence[np.ndarray], *, longest_edge_px: int, size_px: int
) -> tuple[Tensor, Tensor]:
    """Resize twice with PIL, scale to -1..1 in float32, and make the mask of real pixels."""
    made, masks = [], []
    for picture in pictures:
        image = Image.fromarray(picture)
        aspect = image.width / image.height
        if image.width >= image.height:
            short = int(longest_edge_px / aspect)
            fitted = (longest_edge_px, short + short % 2)
        else:
            short = int(longest_edge_px * aspect)
            fitted = (short + short % 2, longest_edge_px)
        image = image.resize(fitted, Image.Resampling.LANCZOS)
        image = image.resize((size_px, size_px), Image.Resampling.LANCZOS)
        levels = np.asarray(image).astype(np.float32) / 255.0
        made.append(((levels - 0.5) / 0.5).transpose(2, 0, 1))
        masks.append(np.ones((size_px, size_px), dtype=np.int64))
    pixel_values = torch.from_numpy(np.ascontiguousarray(np.stack(made)))
    return pixel_values[None], torch.from_numpy(np.stack(masks))[None]


def features(model: Any, input_ids: Tensor, pixel_values: Tensor, mask: Tensor) -> Tensor:
    """Stack every decoder block's input [segment, layer, token, d_model]."""
    output = model.model(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        pixel_values=pixel_values.to(model.dtype),
        pixel_attention_mask=mask,
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.stack(output.hidden_states[:-1], dim=1)


def decoder_features(model: Any, embeddings: Tensor) -> Tensor:
    """Stack every decoder block's input, from embeddings that hold the visual tokens already."""
    output = model.model.text_model(
        inputs_embeds=embeddings, output_hidden_states=True, use_cache=False
    )
    return torch.stack(output.hidden_states[:-1], dim=1)


class NaiveHypernetwork:
    """Features of all layers in, factors with the bias concatenated out."""

    def __init__(
        self, state: Mapping[str, Tensor], *, modules: Mapping[str, tuple[int, int]], rank: int
    ) -> None:
        """Read the tensors; `modules` gives every target's widths, in the order of its names."""
        self.modules, self.rank = modules, rank
        self.perceiver = NaivePerceiver(below(state, "aggregator.perceiver."))
        self.state = {name: t for name, t in state.items() if not name.startswith("aggregator.")}
        self.dtype = next(iter(self.perceiver.modality_projection.values())).dtype

    def __call__(self, x_SLTE: Tensor) -> dict[str, Pair]:
        """Make A and B [segment, layer, rank, width] of every module, without the bias."""
        segments, layers = x_SLTE.shape[:2]
        latents = self.perceiver(x_SLTE.flatten(0, 1).to(self.dtype)).float()
        e = latents.view(segments, layers, len(self.modules), self.rank, -1)
        return self.factors(self.refine(e))

    def refine(self, e: Tensor) -> Tensor:
        """Run the residual MLPs, then normalise each rank's embedding."""
        count = sum(name.endswith("mlp.2.weight") for name in self.state)
        for index in range(count):
            weights = below(self.state, f"layers.{index}.mlp.")
            h = layer_norm(e, e.shape[-1:], weights["0.weight"], weights["0.bias"], LAYER_NORM_EPS)
            h = silu(linear(h, weights["2.weight"], weights["2.bias"]))
            h = linear(h, weights["5.weight"], weights["5.bias"])
            e = e + layer_norm(
                h, h.shape[-1:], weights["6.weight"], weights["6.bias"], LAYER_NORM_EPS
            )
        unit: Tensor = e / e.norm(dim=-1, keepdim=True)
        return unit

    def factors(self, u_SLMRD: Tensor) -> dict[str, Pair]:
        """Project, split and scale."""
        head = self.state["head.weight"]
        head = head if head.ndim == 4 else head[:, None]
        flat = torch.einsum("slmrd,lmdo->slmro", u_SLMRD, head)
        made = {}
        for index, (name, (d_in, d_out)) in enumerate(self.modules.items()):
            one = flat[:, :, index]
            made[name] = (
                one[..., :d_in] * self.state[f"scaler_A.{name}"],
                one[..., d_in : d_in + d_out] * self.state[f"scaler_B.{name}"],
            )
        return made

    def combined(self, factors: Mapping[str, Pair]) -> dict[str, Pair]:
        """Concatenate the bias to every segment's factors, on the rank axis."""
        made = {}
        for name, (a, b) in factors.items():
            bias_a, bias_b = self.state[f"bias_A.{name}"], self.state[f"bias_B.{name}"]
            made[name] = (
                torch.cat([a, bias_a.expand(len(a), -1, -1, -1)], dim=2),
                torch.cat([b, bias_b.expand(len(b), -1, -1, -1)], dim=2),
            )
        return made
