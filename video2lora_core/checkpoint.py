"""Checkpoints: a trained hypernetwork as `hypernetwork.safetensors` + `hypernetwork.json`.

The JSON holds the config, the weights' sha256 and `info`: what the hypernetwork was trained for
and with (the frozen model's weights hash, the internalization prompt). No pickle. Its identity is
what `sha256sum hypernetwork.json hypernetwork.safetensors | sha256sum` prints before `bounds`, the
quality gate's, are added to the JSON: they are not part of it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from video2lora_core.checkpoint_bounds import (
    description_bytes,
    read_bounds,
    with_bounds,
    without_bounds,
)
from video2lora_core.errors import CheckpointError, ModelMismatchError, UsageError
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.inject import decoder_layers, target_linears
from video2lora_core.quality import QualityBounds
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

WEIGHTS_FILE = "hypernetwork.safetensors"
DESCRIPTION_FILE = "hypernetwork.json"
FORMAT = "video2lora-checkpoint"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Checkpoint:
    """A hypernetwork and where it comes from."""

    hypernetwork: Hypernetwork
    """In float32, on the device asked for."""
    sha256: str
    """Identity of both files, bounds left out; adapters carry it."""
    info: Mapping[str, Any]
    """What was saved beside the config."""
    bounds: QualityBounds | None = None
    """Of its adapters' norms; None until `video2lora calibrate` has learned them."""


def save_checkpoint(
    directory: Path,
    hypernetwork: Hypernetwork,
    *,
    info: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write both files, each atomically and the description last; return the sha256."""
    files = checkpoint_files(hypernetwork, info=info, dtype=dtype)
    directory.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, DESCRIPTION_FILE):
        _replace(directory / name, files[name])
    return checkpoint_sha256(files)


def save_bounds(directory: Path, bounds: QualityBounds) -> None:
    """Write bounds into a checkpoint's description, atomically; its sha256 stays what it is.

    Raises:
        CheckpointError: the description cannot be read or written, or was edited by hand.
    """
    path = directory / DESCRIPTION_FILE
    try:
        _replace(path, with_bounds(path.read_bytes(), bounds, where=str(path)))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); copy the model config and the "
            "checkpoint to a directory of yours, and calibrate there"
        ) from error


def load_checkpoint(
    directory: Path, *, expected_sha256: str | None = None, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Read a checkpoint and check it.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or the sha256 is not the expected.
    """
    files = {}
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        path = directory / name
        if not path.is_file():
            raise CheckpointError(
                f"load_checkpoint: {path} is missing; give the directory that holds "
                f"{DESCRIPTION_FILE} and {WEIGHTS_FILE}"
            )
        files[name] = path.read_bytes()
    checkpoint = checkpoint_from_files(files, where=str(directory), device=device)
    if expected_sha256 not in (None, checkpoint.sha256):
        raise CheckpointError(
            f"load_checkpoint: {directory} has sha256 {checkpoint.sha256}, expected "
            f"{expected_sha256}; use the checkpoint that made the adapters"
        )
    return checkpoint


def checkpoint_files(
    hypernetwork: Hypernetwork, *, info: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> dict[str, bytes]:
    """Serialise a checkpoint: file name -> bytes, deterministic. `info` must be plain JSON."""
    state = hypernetwork.state_dict()
    weights = tensor_bytes({name: t.to(dtype) for name, t in state.items()}, metadata={})
    description = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": asdict(hypernetwork.config),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "info": dict(info),
    }
    return {WEIGHTS_FILE: weights, DESCRIPTION_FILE: description_bytes(description)}


def identity_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files as the sha256 sees them, without bounds: what a lake keeps."""
    return {**files, DESCRIPTION_FILE: without_bounds(files[DESCRIPTION_FILE])}


def checkpoint_sha256(files: Mapping[str, bytes]) -> str:
    """Hash both files without bounds: sha256 over the lines `<sha256>  <name>`, names in order."""
    hashed = identity_files(files)
    lines = [f"{hashlib.sha256(hashed[name]).hexdigest()}  {name}\n" for name in sorted(hashed)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def checkpoint_from_files(
    files: Mapping[str, bytes], *, where: str, device: torch.device | str = "cpu"
) -> Checkpoint:
    """Build a checkpoint from its files' bytes; `where` names it in errors.

    Raises:
        CheckpointError: the files are truncated, altered or of another format.
    """
    description = _description(files[DESCRIPTION_FILE], where)
    found = hashlib.sha256(files[WEIGHTS_FILE]).hexdigest()
    if found != description["weights_sha256"]:
        raise CheckpointError(
            f"{where}/{WEIGHTS_FILE}: sha256 is {found} ({len(files[WEIGHTS_FILE])} bytes), "
            f"expected {description['weights_sha256']}: truncated or altered; copy it again"
        )
    try:
        hypernetwork = _loaded(_config(description["config"]), files[WEIGHTS_FILE], device)
    except (KeyError, TypeError, ValueError, RuntimeError, UsageError) as error:
        raise CheckpointError(
            f"{where}: config and tensors do not make a hypernetwork ({error}); "
            "read it with the release that wrote it"
        ) from error
    return Checkpoint(
        hypernetwork=hypernetwork,
        sha256=checkpoint_sha256(files),
        info=description["info"],
        bounds=read_bounds(description, hypernetwork.config, where=f"{where}/{DESCRIPTION_FILE}"),
    )


def check_fits(
    checkpoint: Checkpoint, model: nn.Module, *, weights_sha256: str | None = None
) -> None:
    """Refuse a model that the checkpoint was not made for.

    With `weights_sha256`, the model's, it must also be the very weights named in the checkpoint's
    info (`vlm_weights_sha256`), where it names any.

    Raises:
        ModelMismatchError: widths, layers, modules or weights differ.
    """
    config = checkpoint.hypernetwork.config
    widths = {module.name: (module.d_in, module.d_out) for module in config.modules}
    target_linears(model, layers=config.layers, widths=widths)
    norm = getattr(decoder_layers(model)[0], "input_layernorm", None)
    found = getattr(norm, "weight", torch.empty(0)).shape[0]
    if found != config.d_model:
        raise ModelMismatchError(
            f"check_fits: the model's features are {found} wide, the checkpoint expects "
            f"{config.d_model}; use the model that the checkpoint was trained for"
        )
    trained_for = checkpoint.info.get("vlm_weights_sha256")
    if None not in (trained_for, weights_sha256) and trained_for != weights_sha256:
        raise ModelMismatchError(
            f"check_fits: the model's weights are {weights_sha256}, the checkpoint was trained "
            f"for {trained_for}; use that model"
        )


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(data)
    partial.replace(path)


def _description(data: bytes, where: str) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads(data)
        found = (description["format"], description["format_version"])
        missing = {"config", "weights_sha256", "info"} - set(description)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{where}/{DESCRIPTION_FILE}: not a checkpoint's description ({error!r}); copy it again"
        ) from error
    if found != (FORMAT, FORMAT_VERSION) or missing:
        raise CheckpointError(
            f"{where}/{DESCRIPTION_FILE}: format is {found}, expected {(FORMAT, FORMAT_VERSION)}, "
            f"missing keys {sorted(missing)}; read it with the release that wrote it"
        )
    return description


def _config(fields: Mapping[str, Any]) -> HypernetworkConfig:
    modules = tuple(TargetModule(**module) for module in fields["modules"])
    return HypernetworkConfig(**{**fields, "layers": tuple(fields["layers"]), "modules": modules})


def _loaded(config: HypernetworkConfig, weights: bytes, device: torch.device | str) -> Hypernetwork:
    tensors, _ = read_tensor_bytes(weights)
    hypernetwork = Hypernetwork(config, device="meta")
    state = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
    hypernetwork.load_state_dict(state, strict=True, assign=True)
    return hypernetwork
