"""The recipe: everything that decides an adapter's content, and nothing that does not.

It is made from file hashes and settings alone, so planning needs no loaded model. Model ids,
device, attention kernel and batch size are provenance: they stand in the adapters' rows.
"""

import functools
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from configs.load import load_model_config
from configs.schema import InternalizeConfig, ModelConfig
from storage import identity
from tasks.approximations import approximated
from tasks.models import (
    pixel_spec,
    prompt_layout,
    random_model,
    read_checkpoint_files,
    require_model,
)
from video2lora_core.adapter import FORMAT_VERSIONS
from video2lora_core.checkpoint import checkpoint_sha256
from video2lora_core.model_files import files_sha256, require_files
from video2lora_core.vlm import processor_sha256

_SAMPLING_RULES = {
    "centres": "centres of equal sub-spans",
    "keyframes": "nearest key frames to the centres of equal sub-spans",
}
_DECODER_PACKAGES = {"pyav": "av", "decord": "decord"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelIdentity:
    """What a model's files are, by their content."""

    weights_sha256: str
    config_sha256: str
    """Of `config.json`: it holds what the weights do not, such as the rotary base."""
    tokenizer_sha256: str
    processor_sha256: str
    checkpoint_sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A recipe and its id, with the model it belongs to."""

    recipe_id: str
    content: dict[str, Any]
    """What is hashed into the id."""
    model: ModelConfig
    """As adapters are made with it: its pixels are those of `vision_px`, where that is set."""
    identity: ModelIdentity


def make_recipe(config: InternalizeConfig) -> Recipe:
    """Return the recipe of a run config.

    Raises:
        UsageError: the model config or its files are not there, or the model cannot be approximated
            as asked.
        CheckpointError: the hypernetwork checkpoint is not there or was altered.
    """
    model, given_up = approximated(
        load_model_config(config.model, random_weights=config.random_weights), config.approximations
    )
    files = identify_model(model)
    segments = model.segments
    content: dict[str, Any] = given_up | {
        "format_version": FORMAT_VERSIONS[config.stored_dtype],
        "model_weights_sha256": files.weights_sha256,
        "model_config_sha256": files.config_sha256,
        "tokenizer_sha256": files.tokenizer_sha256,
        "processor_sha256": files.processor_sha256,
        "checkpoint_sha256": files.checkpoint_sha256,
        "internalization_prompt": prompt_layout(model).internalization_prompt,
        "timestamps": prompt_layout(model).clock,
        "segment_us": segments.segment_us,
        "min_tail_us": segments.min_tail_us,
        "num_frames": segments.num_frames,
        "sampling_rule": _SAMPLING_RULES[config.approximations.frames],
        "decoder": config.decoder,
        "decoder_version": _major_version(_DECODER_PACKAGES[config.decoder]),
        "resize": model.pixels.resize,
        "compute_dtype": model.vlm.dtype,
        "stored_dtype": config.stored_dtype,
    }
    if model.vlm.dtype != "float32":
        # The perceiver follows the frozen model; a float32 recipe keeps the id it always had.
        content["perceiver_dtype"] = model.vlm.dtype
    recipe_id = identity.recipe_id(content)
    return Recipe(recipe_id=recipe_id, content=content, model=model, identity=files)


def identify_model(model: ModelConfig) -> ModelIdentity:
    """Hash a model's files, once per process."""
    return _identify_once(model.model_dump_json())


@functools.lru_cache(maxsize=8)
def _identify_once(model_json: str) -> ModelIdentity:
    model = ModelConfig.model_validate_json(model_json)
    if (drawn := random_model(model)) is not None:
        return ModelIdentity(
            weights_sha256=drawn.weights_sha256,
            config_sha256=files_sha256([drawn.architecture]),
            tokenizer_sha256=drawn.tokenizer_sha256,
            processor_sha256=processor_sha256(pixel_spec(model), prompt_layout(model)),
            checkpoint_sha256=checkpoint_sha256(read_checkpoint_files(model)),
        )
    directory = require_model(model)
    source = model.vlm.path or model.vlm.hub_id or ""
    return ModelIdentity(
        weights_sha256=files_sha256(require_files(directory, source)),
        config_sha256=files_sha256([directory / "config.json"]),
        tokenizer_sha256=files_sha256([directory / "tokenizer.json"]),
        processor_sha256=processor_sha256(pixel_spec(model), prompt_layout(model)),
        checkpoint_sha256=checkpoint_sha256(read_checkpoint_files(model)),
    )


def _major_version(package: str) -> str:
    return version(package).split(".")[0]
