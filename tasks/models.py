"""A configured model: what it is (hashes of its files), and itself, loaded once per process."""

import functools
import logging
from dataclasses import dataclass
from pathlib import Path

import torch

from configs.schema import ModelConfig
from video2lora_core.adapter import Factors
from video2lora_core.checkpoint import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    check_fits,
    identity_files,
    load_checkpoint,
)
from video2lora_core.errors import CheckpointError
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import SMOLVLM2, PromptLayout
from video2lora_core.vlm import Vlm, load_vlm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A frozen VLM with the hypernetwork that was trained for it, on one device."""

    vlm: Vlm
    checkpoint: Checkpoint

    @property
    def hypernetwork(self) -> Hypernetwork:
        """The trained network, features to factors."""
        found: Hypernetwork = self.checkpoint.hypernetwork
        return found

    def bias(self) -> dict[str, Factors]:
        """Return the bias adapter's factors, which every answer needs exactly once."""
        return self.hypernetwork.bias_factors()


def load_model(config: ModelConfig) -> LoadedModel:
    """Load VLM and hypernetwork; the last model stays loaded for this process's next step."""
    return _load_once(config.model_dump_json())


def forget_model() -> None:
    """Let the next `load_model` read the files again, because they changed."""
    _load_once.cache_clear()


def prompt_layout(config: ModelConfig) -> PromptLayout:
    """Return the template strings that the config names or holds."""
    return SMOLVLM2 if config.prompt == "smolvlm2" else PromptLayout.from_mapping(config.prompt)


def pixel_spec(config: ModelConfig) -> PixelSpec:
    """Return the config's way from frames to pixels."""
    return PixelSpec(**config.pixels.model_dump())


def read_checkpoint_files(directory: Path) -> dict[str, bytes]:
    """Read what a checkpoint's sha256 is of and a lake keeps: its files without bounds, unchecked.

    Raises:
        CheckpointError: one of them is not there.
    """
    try:
        names = (DESCRIPTION_FILE, WEIGHTS_FILE)
        return identity_files({name: (directory / name).read_bytes() for name in names})
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); give the directory of a trained "
            "checkpoint in the model config"
        ) from error


# One entry: a worker process serves one model, and a shard's steps and its next shards reuse it.
@functools.lru_cache(maxsize=1)
def _load_once(config_json: str) -> LoadedModel:
    config = ModelConfig.model_validate_json(config_json)
    if config.vlm.cpu_threads is not None:
        torch.set_num_threads(config.vlm.cpu_threads)
    device = _device(config.vlm.device)
    vlm = load_vlm(
        config.vlm.path or config.vlm.hub_id or "",
        revision=config.vlm.revision,
        layout=prompt_layout(config),
        pixel_spec=pixel_spec(config),
        dtype=getattr(torch, config.vlm.dtype),
        device=device,
        attention=config.vlm.attention,
    )
    checkpoint = load_checkpoint(config.checkpoint, device=device)
    checkpoint.hypernetwork.requires_grad_(requires_grad=False)
    check_fits(checkpoint, vlm.model, weights_sha256=vlm.weights_sha256)
    logger.info("model %s: loaded on %s", config.name, device)
    return LoadedModel(vlm=vlm, checkpoint=checkpoint)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
