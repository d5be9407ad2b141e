"""The model: its files are there, are what the checkpoint was trained for, and fit together."""

import json
from collections.abc import Iterator

from configs.load import load_model_config
from configs.schema import ModelConfig
from storage.errors import StorageError, reason_of
from storage.lake import find_lake
from tasks.doctor.finding import Finding, Patient, fault, ok, warning
from tasks.models import read_checkpoint_files, require_model
from video2lora_core.checkpoint import (
    DESCRIPTION_FILE,
    checkpoint_from_files,
    checkpoint_sha256,
)
from video2lora_core.errors import CheckpointError, UsageError, Video2LoraError
from video2lora_core.model_files import files_sha256, require_files

_DIGITS = 12


def check_model(patient: Patient) -> Iterator[Finding]:
    """Look at the weights and at the hypernetwork's checkpoint."""
    try:
        config = load_model_config(patient.model)
    except UsageError as error:
        fix = "video2lora doctor --model tiny, or correct the file"
        yield fault("model config", str(error), meaning="no run can use this model", fix=fix)
        return
    weights_sha256 = None
    if config.random_seed is None:
        found, weights_sha256 = _weights(config)
        yield found
    yield from _checkpoint(config, patient, weights_sha256)


def _weights(config: ModelConfig) -> tuple[Finding, str | None]:
    try:
        directory = require_model(config)
        sha256 = files_sha256(require_files(directory, directory))
    except (UsageError, OSError) as error:
        fix = _fetch(config)
        text = reason_of(error)
        return fault("model weights", text, meaning="nothing can be internalized", fix=fix), None
    return ok("model weights", f"{directory}: sha256 {sha256[:_DIGITS]}"), sha256


def _checkpoint(
    config: ModelConfig, patient: Patient, weights_sha256: str | None
) -> Iterator[Finding]:
    name = "checkpoint"
    try:
        files = read_checkpoint_files(config)
        checkpoint_from_files(files, where=str(config.checkpoint))
    except (CheckpointError, Video2LoraError) as error:
        fix = _import(config)
        yield fault(name, reason_of(error), meaning="no adapter can be made or read", fix=fix)
        return
    sha256 = checkpoint_sha256(files)
    yield ok(name, f"{config.checkpoint}: sha256 {sha256[:_DIGITS]}")
    info = json.loads(files[DESCRIPTION_FILE]).get("info", {})
    trained_for = info.get("vlm_weights_sha256")
    if weights_sha256 is not None and trained_for not in (None, weights_sha256):
        yield fault(
            "weights for checkpoint",
            f"the weights are {weights_sha256[:_DIGITS]}, trained for {trained_for[:_DIGITS]}",
            meaning="the weights are altered or of another model; its adapters would be wrong",
            fix=_fetch(config),
        )
    if patient.lake is not None:
        yield from _of_lake(patient.lake, sha256)


def _of_lake(uri: str, sha256: str) -> Iterator[Finding]:
    name = "lake's checkpoint"
    try:
        lake = find_lake(uri)
        content = None if lake is None else lake.latest_recipe()[1]
    except StorageError:
        return  # the lake's own checks say what is wrong with it
    wanted = (content or {}).get("checkpoint_sha256")
    if wanted in (None, sha256):
        return
    yield warning(
        name,
        f"its last adapters are of {wanted[:_DIGITS]}, this is {sha256[:_DIGITS]}",
        meaning="adapters of one checkpoint cannot be used with another",
        fix=f"video2lora backfill --lake {uri} --dry-run, or give the model that made them",
    )


def _fetch(config: ModelConfig) -> str:
    if config.vlm.hub_id is not None:
        return f"hf download {config.vlm.hub_id} --revision {config.vlm.revision}"
    return "pip install --force-reinstall --no-deps video2lora, or copy the model's files again"


def _import(config: ModelConfig) -> str:
    if config.released is None:
        return "pip install --force-reinstall --no-deps video2lora, or copy the checkpoint again"
    place = config.checkpoint.parent
    return (
        f"hf download {config.released.hub_id} {config.released.file} --local-dir {place} && "
        f"video2lora import-checkpoint {place / config.released.file} --to {config.checkpoint}"
    )
