"""A configured model: what it is (hashes of its files), and itself, loaded once per process."""

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import SmolVLMConfig

from configs.schema import ModelConfig
from video2lora_core.adapter import Factors
from video2lora_core.checkpoint import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    check_fits,
    checkpoint_from_files,
    identity_files,
    load_checkpoint,
)
from video2lora_core.errors import CheckpointError, UsageError
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.model_files import find_files, find_tokenizer
from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import SMOLVLM2, PromptLayout
from video2lora_core.random_model import RandomModel, released_settings
from video2lora_core.vision_square import image_tokens
from video2lora_core.vlm import Vlm, load_vlm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A frozen VLM with the hypernetwork that was trained for it, on one device."""

    vlm: Vlm
    checkpoint: Checkpoint
    is_random: bool = False
    """Whether the weights are random ones: for benchmarks and tests."""

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


def load_frozen(config: ModelConfig) -> Vlm:
    """Load the VLM alone, as training and its teacher need it; the checkpoint is not looked at."""
    return _load_vlm(config, random_model(config), _device(config.vlm.device))


def num_loads() -> int:
    """Return how often this process has loaded a model since it forgot the last one."""
    return _load_once.cache_info().misses


def forget_model() -> None:
    """Let the next `load_model` read the files again, because they changed."""
    _load_once.cache_clear()


def prompt_layout(config: ModelConfig) -> PromptLayout:
    """Return the template strings that the config names or holds."""
    return SMOLVLM2 if config.prompt == "smolvlm2" else PromptLayout.from_mapping(config.prompt)


def pixel_spec(config: ModelConfig) -> PixelSpec:
    """Return the config's way from frames to pixels."""
    return PixelSpec(**config.pixels.model_dump())


def read_checkpoint_files(config: ModelConfig) -> dict[str, bytes]:
    """Read what a checkpoint's sha256 is of and a lake keeps: its files without bounds, unchecked.

    Random ones are drawn.

    Raises:
        CheckpointError: one of them is not there.
    """
    if (drawn := random_model(config)) is not None:
        return drawn.checkpoint_files()
    directory = config.checkpoint
    try:
        names = (DESCRIPTION_FILE, WEIGHTS_FILE)
        return identity_files({name: (directory / name).read_bytes() for name in names})
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); {_how_to_get(config)}"
        ) from error


def random_model(config: ModelConfig) -> RandomModel | None:
    """Return what a config's random weights are made of, or None where they are real."""
    if config.random_seed is None:
        return None
    vlm = config.vlm
    if vlm.architecture is None and vlm.path is None:
        raise UsageError(
            f"model {config.name}: random weights need the architecture (found neither "
            "`vlm.architecture` nor `vlm.path`); name its config.json in the model config"
        )
    architecture = Path(vlm.architecture or Path(vlm.path or "") / "config.json")
    tokenizer = find_tokenizer(vlm.path or vlm.hub_id or "", vlm.revision)
    return RandomModel(architecture=architecture, seed=config.random_seed, tokenizer=tokenizer)


def read_architecture(config: ModelConfig) -> SmolVLMConfig:
    """Read the VLM's config.json, or the one that its random weights are drawn by.

    Raises:
        UsageError: it is not there.
    """
    if (drawn := random_model(config)) is not None:
        return drawn.config()
    content = (require_model(config) / "config.json").read_text(encoding="utf-8")
    return SmolVLMConfig(**json.loads(content))


def hypernetwork_rank(config: ModelConfig) -> int:
    """Return the rank of the adapters that a config's hypernetwork makes.

    Raises:
        CheckpointError: the checkpoint is not there.
    """
    if (drawn := random_model(config)) is not None:
        return released_settings(drawn.config()).rank
    try:
        description = (config.checkpoint / DESCRIPTION_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{error.filename}: cannot be read ({error.strerror}); {_how_to_get(config)}"
        ) from error
    return int(json.loads(description)["config"]["rank"])


def visual_token_shape(config: ModelConfig) -> tuple[int, int]:
    """Return how many visual tokens a frame becomes and how wide each is, from files alone."""
    shape = read_architecture(config)
    num_tokens = image_tokens(shape, config.pixels.size_px)
    return num_tokens, int(shape.text_config.hidden_size)


def require_model(config: ModelConfig) -> Path:
    """Return the directory of the VLM; what is missing of VLM and checkpoint is said at once.

    Raises:
        UsageError: the VLM is not there.
    """
    try:
        directory, _ = find_files(config.vlm.path or config.vlm.hub_id or "", config.vlm.revision)
    except UsageError as error:
        if (config.checkpoint / DESCRIPTION_FILE).is_file():
            raise
        raise UsageError(
            f"{error}. The hypernetwork's checkpoint is missing too ({config.checkpoint}); "
            f"{_how_to_get(config)}. Without either, --random-weights runs everything but answers"
        ) from error
    return directory


def _how_to_get(config: ModelConfig) -> str:
    """Say which commands put the checkpoint where the config expects it."""
    if config.released is None:
        return "give the directory of a trained checkpoint in the model config"
    place = config.checkpoint.parent
    return (
        f"run `hf download {config.released.hub_id} {config.released.file} --local-dir {place}` "
        f"and `video2lora import-checkpoint {place / config.released.file} --to "
        f"{config.checkpoint}`"
    )


# One entry: a worker process serves one model, and a shard's steps and its next shards reuse it.
@functools.lru_cache(maxsize=1)
def _load_once(config_json: str) -> LoadedModel:
    config = ModelConfig.model_validate_json(config_json)
    if config.vlm.cpu_threads is not None:
        torch.set_num_threads(config.vlm.cpu_threads)
    device = _device(config.vlm.device)
    drawn = random_model(config)
    vlm = _load_vlm(config, drawn, device)
    checkpoint = _load_checkpoint(config, drawn, device)
    checkpoint.hypernetwork.requires_grad_(requires_grad=False).compute_in(vlm.dtype)
    check_fits(checkpoint, vlm.model, weights_sha256=vlm.weights_sha256)
    shown = "with RANDOM weights, " if drawn is not None else ""
    logger.info("model %s: loaded %son %s", config.name, shown, device)
    return LoadedModel(vlm=vlm, checkpoint=checkpoint, is_random=drawn is not None)


def _load_checkpoint(config: ModelConfig, drawn: RandomModel | None, device: str) -> Checkpoint:
    if drawn is not None:
        files = drawn.checkpoint_files()
        return checkpoint_from_files(files, where="random weights", device=device)
    if not (config.checkpoint / DESCRIPTION_FILE).is_file():
        raise CheckpointError(f"{config.checkpoint}: no checkpoint is there; {_how_to_get(config)}")
    return load_checkpoint(config.checkpoint, device=device)


def _load_vlm(config: ModelConfig, drawn: RandomModel | None, device: str) -> Vlm:
    settings: dict[str, Any] = {
        "layout": prompt_layout(config),
        "pixel_spec": pixel_spec(config),
        "dtype": getattr(torch, config.vlm.dtype),
        "device": device,
        "attention": config.vlm.attention,
    }
    if drawn is not None:
        return drawn.load_vlm(**settings)
    require_model(config)
    source = config.vlm.path or config.vlm.hub_id or ""
    return load_vlm(source, revision=config.vlm.revision, **settings)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
