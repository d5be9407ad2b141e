"""The authors' released checkpoints: a pickled `.pt` becomes a hypernetwork of ours, once.

`released_archive` reads the file without running it; here its settings become a
`HypernetworkConfig` and its tensors are checked, name by name and shape by shape, against a
hypernetwork of that config (METHOD.md, The released checkpoints). Choices:

* An option of the authors' code that we do not implement is refused by its name: such a checkpoint
  would load and give other factors.
* The multiplier is what stands in the file (`lora_alpha`), not what the paper's formula gives.
* The file does not say which weights of the VLM it was trained for, only their name; so what fits
  is checked by layers and widths (`checkpoint.check_fits`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from video2lora_core.errors import CheckpointError, UsageError
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.released_archive import Record, read_released_archive

_COMPILED_PREFIX = "_orig_mod."  # torch.compile puts it before every name
_DEFAULT_RESIDUAL_MLPS = 4  # of the released code, where the file does not say
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SHOWN = 3
_MAX_LAYERS = 1000

# The one value of each option that we implement; where the file does not say, it is that value.
_IMPLEMENTED: Mapping[str, Mapping[str, Any]] = {
    "hypernet_config": {
        "per_layer_processing": False,
        "use_light_weight_lora": False,
        "use_token_mixing": False,
        "extra_modules": None,
        "per_rank_gen": True,
        "use_per_rank_bias": False,
        "use_bias": True,
    },
    "aggregator_config": {
        "aggregator_type": "perceiver",
        "layer_to_layer_ctx_encoder": True,
        "num_extra_modules": 0,
        "per_rank_gen": True,
    },
    "lora_config": {
        "use_dora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "layers_to_transform": None,
    },
    "ctx_encoder_args": {
        "ctx_encoder_type": "per_layer_activations",
        "ctx_encoder_last_layer": None,
    },
}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Released:
    """A released checkpoint, read and checked."""

    hypernetwork: Hypernetwork
    """In float32 on the CPU."""
    base_model: str
    """The VLM's name as the authors wrote it; a claim, not checked."""
    file_sha256: str
    """Of the `.pt` file."""


def read_released_checkpoint(path: Path) -> Released:
    """Read a released `.pt` without running anything it says.

    Raises:
        CheckpointError: the file is hostile, damaged, or needs what is not implemented.
    """
    content = read_released_archive(path)
    named = {key.removeprefix(_COMPILED_PREFIX): value for key, value in content.items()}
    if len(named) != len(content):
        raise CheckpointError(f"{path}: names stand twice, with and without {_COMPILED_PREFIX}")
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor)}
    _check_tensors(tensors, path)
    try:
        settings = _settings(named, path)
        _refuse_not_implemented(settings, path)
        config = _config(settings, tensors, path)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, UsageError) as error:
        raise CheckpointError(
            f"{path}: its settings make no hypernetwork ({error!r}); it is of another kind or of "
            "a later version of the authors' code"
        ) from error
    return Released(
        hypernetwork=_hypernetwork(config, tensors, path),
        base_model=str(named.get("base_model_name_or_path", "")),
        file_sha256=_sha256(path),
    )


def _settings(named: Mapping[str, Any], path: Path) -> dict[str, dict[str, Any]]:
    """Return the fields of the file's records, by the record's name."""
    hypernet = _fields(named, "hypernet_config", path)
    settings = {
        "hypernet_config": hypernet,
        "aggregator_config": _fields(hypernet, "aggregator_config", path),
        "lora_config": _fields(hypernet, "lora_config", path),
    }
    if "ctx_encoder_args" in named:
        settings["ctx_encoder_args"] = _fields(named, "ctx_encoder_args", path)
    return settings


def _fields(holder: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    record = holder.get(name)
    if not isinstance(record, Record):
        raise CheckpointError(
            f"{path}: it has no {name} (found {type(record).__name__}, expected a record of "
            "settings); give a released Frames2LoRA checkpoint"
        )
    return {key: _plain(value) for key, value in vars(record).items() if key != "args"}


def _plain(value: Any) -> Any:
    """Unwrap an enum's member, which is pickled as a call with its value."""
    is_member = isinstance(value, Record) and len(value.args) == 1 and len(vars(value)) == 1
    return value.args[0] if is_member else value


def _refuse_not_implemented(settings: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    faults = [
        f"{where}.{option} = {found!r} (expected {expected!r})"
        for where, options in _IMPLEMENTED.items()
        for option, expected in options.items()
        if (found := settings.get(where, {}).get(option, expected)) != expected
        and (found or expected)  # None, {}, 0 and an empty list all mean: not used
    ]
    if faults:
        raise CheckpointError(
            f"{path}: it uses options of the authors' code that are not implemented here: "
            f"{'; '.join(faults)}; run it with their code"
        )


def _config(
    settings: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor], path: Path
) -> HypernetworkConfig:
    hypernet, perceiver = settings["hypernet_config"], settings["aggregator_config"]
    num_blocks, num_self = perceiver["num_blocks"], perceiver["num_self_attn_per_block"]
    num_residual_mlps = hypernet.get("num_pre_head_layers", _DEFAULT_RESIDUAL_MLPS)
    # Every layer has tensors of its own name: a claim beyond them would only cost time and memory.
    if max(num_blocks * (1 + num_self), num_residual_mlps) > len(tensors):
        raise ValueError(
            f"{num_blocks} blocks and {num_residual_mlps} MLPs in {len(tensors)} tensors"
        )
    if len(hypernet["layer_indices"]) > _MAX_LAYERS:
        raise ValueError(f"{len(hypernet['layer_indices'])} layers")
    return HypernetworkConfig(
        d_model=int(perceiver["feature_size"]),
        layers=tuple(int(layer) for layer in hypernet["layer_indices"]),
        modules=_modules(hypernet["feature_sizes"], tensors, path),
        rank=int(settings["lora_config"]["r"]),
        scaling=float(settings["lora_config"]["lora_alpha"]),
        d_latent=int(hypernet["latent_size"]),
        num_latents=int(perceiver["n_latent_queries"]),
        num_cross_blocks=int(num_blocks),
        num_self_per_block=int(num_self),
        shared_weights=bool(perceiver["shared_weights"]),
        num_residual_mlps=int(num_residual_mlps),
    )


def _modules(
    sizes: tuple[Mapping[str, int], Mapping[str, int]], tensors: Mapping[str, Tensor], path: Path
) -> tuple[TargetModule, ...]:
    d_in, d_out = sizes
    held = {name.removeprefix("bias_A.") for name in tensors if name.startswith("bias_A.")}
    if not set(d_in) == set(d_out) == held:
        raise CheckpointError(
            f"{path}: its settings name the target modules {sorted(set(d_in) | set(d_out))}, its "
            f"tensors {sorted(held)}; the file is damaged or was put together by hand"
        )
    return tuple(
        TargetModule(name=name, d_in=int(d_in[name]), d_out=int(d_out[name]))
        for name in sorted(held)
    )


def _check_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that are not what they seem, before anything is computed with them."""
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"{path}: {name} is {tensor.dtype}, {tensor.layout} (expected a dense tensor of "
                f"{', '.join(map(str, _DTYPES))})"
            )
        held = tensor.untyped_storage().nbytes()
        if tensor.numel() * tensor.element_size() > held:
            raise CheckpointError(
                f"{path}: {name} claims the shape {tuple(tensor.shape)} over {held} bytes of "
                "storage: a memory bomb"
            )


def _hypernetwork(
    config: HypernetworkConfig, tensors: Mapping[str, Tensor], path: Path
) -> Hypernetwork:
    hypernetwork = Hypernetwork(config, device="meta")
    _check_shapes(hypernetwork, tensors, path)
    state = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{path}: {len(broken)} tensors hold NaN or infinity, e.g. {broken[0]}; "
            "download it again"
        )
    hypernetwork.load_state_dict(state, strict=True, assign=True)
    loaded = hypernetwork.state_dict()
    if config.shared_weights and any(not torch.equal(loaded[n], t) for n, t in state.items()):
        raise CheckpointError(
            f"{path}: shared_weights is set, but tensors of shared layers differ; the file is "
            "damaged or its settings are of another checkpoint"
        )
    return hypernetwork.requires_grad_(requires_grad=False)


def _check_shapes(hypernetwork: Hypernetwork, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in hypernetwork.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    faults = [
        f"{name} is {found.get(name, 'missing')} (expected {expected.get(name, 'none such')})"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise CheckpointError(
            f"{path}: tensors and settings do not fit: {'; '.join(faults[:_SHOWN])}{more}; it is "
            "of another kind or of a later version of the authors' code"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
