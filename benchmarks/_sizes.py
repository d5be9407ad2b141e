"""Models that benchmarks measure: the embedded default, and full shapes with random weights.

`fake_model` has the full-size shapes and no memory: its tensors know how large they are and which
kernel a CPU would choose, and hold nothing.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

from benchmarks._naive_path import NaiveHypernetwork
from configs.load import load_model_config
from tasks.models import pixel_spec, prompt_layout
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig
from video2lora_core.random_model import random_hypernetwork, released_settings
from video2lora_core.stand_in_tokenizer import stand_in_tokenizer
from video2lora_core.vlm import Vlm, make_vlm

SEED = 0
TOKENS_500M = 982  # 12 frames and the internalization prompt (docs/method.md)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchModel:
    """A VLM and the hypernetwork that reads it."""

    vlm: Vlm
    hypernetwork: Hypernetwork

    def naive(self) -> NaiveHypernetwork:
        """Return the plain hypernetwork over the same tensors."""
        return naive_of(self.hypernetwork)


def naive_of(hypernetwork: Hypernetwork) -> NaiveHypernetwork:
    config = hypernetwork.config
    widths = {module.name: (module.d_in, module.d_out) for module in config.modules}
    return NaiveHypernetwork(hypernetwork.state_dict(), modules=widths, rank=config.rank)


def architecture(name: str) -> SmolVLMConfig:
    path = Path(load_model_config(name).vlm.architecture or "")
    return SmolVLMConfig(**json.loads(path.read_text(encoding="utf-8")))


def full_width(name: str, *, num_layers: int) -> HypernetworkConfig:
    """Return the released hypernetwork's shape, with its first `num_layers` layers only."""
    whole = released_settings(architecture(name))
    return HypernetworkConfig(
        d_model=whole.d_model,
        layers=whole.layers[:num_layers],
        modules=whole.modules,
        rank=whole.rank,
        scaling=whole.scaling,
    )


def random_full_width(name: str, *, num_layers: int) -> Hypernetwork:
    return random_hypernetwork(full_width(name, num_layers=num_layers), seed=SEED)


def random_features(config: HypernetworkConfig, *, num_tokens: int) -> Tensor:
    """Draw one segment's features [1, layer, token, d_model]."""
    generator = torch.Generator().manual_seed(SEED)
    return torch.randn(1, len(config.layers), num_tokens, config.d_model, generator=generator)


@contextmanager
def fake_model(name: str, *, dtype: torch.dtype) -> Iterator[BenchModel]:
    """Give a full-size model that holds nothing; compute with it inside the `with` block."""
    config = load_model_config(name)
    with FakeTensorMode():
        shape = architecture(name)
        model = SmolVLMForConditionalGeneration._from_config(
            shape, dtype=dtype, attn_implementation="sdpa"
        )
        vlm = make_vlm(
            model.eval().requires_grad_(requires_grad=False),
            PreTrainedTokenizerFast(tokenizer_object=stand_in_tokenizer()),
            layout=prompt_layout(config),
            pixel_spec=pixel_spec(config),
            weights_sha256="0" * 64,
            tokenizer_sha256="0" * 64,
            name=f"fake-{name}",
            revision=None,
        )
        hypernetwork = Hypernetwork(released_settings(shape), device="meta")
        state = {
            key: torch.empty(t.shape, dtype=dtype if key.startswith("aggregator.") else t.dtype)
            for key, t in hypernetwork.state_dict().items()
        }
        hypernetwork.load_state_dict(state, assign=True)
        hypernetwork.requires_grad_(requires_grad=False)
        yield BenchModel(vlm=vlm, hypernetwork=hypernetwork)
