"""A model of the exact architecture with random weights: for benchmarks and tests only.

Sizes, memory, speed and every shape are those of the real model; what it says is noise. Weights are
drawn on the CPU from a seed, so that device and batch do not change them. Its identity names the
seed, the architecture and the release of torch whose generator drew them, so that no random adapter
is ever taken for a real one, nor one seed's for another's.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

from video2lora_core.checkpoint import checkpoint_files
from video2lora_core.errors import UsageError
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    TargetModule,
    reference_scaling,
)
from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import PromptLayout
from video2lora_core.stand_in_tokenizer import IMAGE_TOKEN_ID, VOCAB_SIZE, stand_in_tokenizer
from video2lora_core.vlm import Vlm, make_vlm

RELEASED_RANK = 16
RANDOM_INFO_KEY = "is_random"


@dataclass(frozen=True, kw_only=True, slots=True)
class RandomModel:
    """What random weights are made of."""

    architecture: Path
    """A config.json of transformers for a SmolVLM."""
    seed: int
    """Draws all weights."""
    tokenizer: Path | None
    """The model's own tokenizer.json; a stand-in where it is None (SmolVLM2 only)."""

    @property
    def weights_sha256(self) -> str:
        """Identify the VLM's weights without drawing them."""
        content = {
            "random_weights": self.seed,
            "architecture": json.loads(self.architecture.read_text(encoding="utf-8")),
            "torch": ".".join(torch.__version__.split(".")[:2]),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def tokenizer_sha256(self) -> str:
        """Hash the bytes of the tokenizer's JSON, the stand-in's too."""
        return hashlib.sha256(self._tokenizer_json()).hexdigest()

    def config(self) -> SmolVLMConfig:
        """Read the architecture.

        Raises:
            UsageError: the file is not there or describes another kind of model.
        """
        try:
            content = json.loads(self.architecture.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"random weights: {self.architecture} is no config.json ({error}); give the "
                "architecture's"
            ) from error
        if content.get("model_type") != "smolvlm":
            raise UsageError(
                f"random weights: {self.architecture} describes {content.get('model_type')!r} "
                "(expected 'smolvlm'); give a SmolVLM's config.json"
            )
        return SmolVLMConfig(**content)

    def load_vlm(
        self,
        *,
        layout: PromptLayout,
        pixel_spec: PixelSpec,
        dtype: torch.dtype,
        device: str | torch.device,
        attention: str,
    ) -> Vlm:
        """Draw the VLM's weights and put it together with its tokenizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = SmolVLMForConditionalGeneration._from_config(
                self.config(), dtype=dtype, attn_implementation=attention
            )
        model.requires_grad_(requires_grad=False)
        tokenizer = Tokenizer.from_str(self._tokenizer_json().decode())
        return make_vlm(
            model.eval().to(device),
            PreTrainedTokenizerFast(tokenizer_object=tokenizer),
            layout=layout,
            pixel_spec=pixel_spec,
            weights_sha256=self.weights_sha256,
            tokenizer_sha256=self.tokenizer_sha256,
            name=f"random-{self.architecture.parent.name}",
            revision=None,
        )

    def checkpoint_files(self) -> dict[str, bytes]:
        """Draw a hypernetwork of the released settings and serialise it as a checkpoint."""
        hypernetwork = random_hypernetwork(released_settings(self.config()), seed=self.seed)
        info = {
            RANDOM_INFO_KEY: True,
            "random_seed": self.seed,
            "vlm_weights_sha256": self.weights_sha256,
        }
        # Half the bytes: random numbers lose nothing by being rounded.
        return checkpoint_files(hypernetwork, info=info, dtype=torch.bfloat16)

    def _tokenizer_json(self) -> bytes:
        if self.tokenizer is not None:
            return self.tokenizer.read_bytes()
        config = self.config()
        found = (config.text_config.vocab_size, config.image_token_id)
        if found != (VOCAB_SIZE, IMAGE_TOKEN_ID):
            raise UsageError(
                "random weights: no tokenizer.json, and the stand-in is SmolVLM2's (vocabulary and "
                f"image token are {found}, expected {(VOCAB_SIZE, IMAGE_TOKEN_ID)}); put the "
                "model's tokenizer.json beside its config.json"
            )
        return stand_in_tokenizer().to_str().encode()


def released_settings(config: SmolVLMConfig) -> HypernetworkConfig:
    """Return the released checkpoints' hypernetwork for a VLM (METHOD.md, Sizes)."""
    text = config.text_config
    down = TargetModule(name="down_proj", d_in=text.intermediate_size, d_out=text.hidden_size)
    return HypernetworkConfig(
        d_model=text.hidden_size,
        layers=tuple(range(text.num_hidden_layers)),
        modules=(down,),
        rank=RELEASED_RANK,
        scaling=reference_scaling(RELEASED_RANK),
    )


def random_hypernetwork(config: HypernetworkConfig, *, seed: int) -> Hypernetwork:
    """Initialise a hypernetwork whose adapters are not no-ops.

    Training starts from scaler_B = 0 and bias_B = 0; here they are 1 and as bias_A is.
    """
    generator = torch.Generator().manual_seed(seed)
    hypernetwork = Hypernetwork(config, generator=generator)
    with torch.no_grad():
        for module in config.modules:
            hypernetwork.scaler_B[module.name].fill_(1.0)
            std = 0.2 / (module.d_out * config.rank) ** 0.5
            hypernetwork.bias_B[module.name].normal_(0.0, std, generator=generator)
    return hypernetwork.requires_grad_(requires_grad=False)
