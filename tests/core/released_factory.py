"""Files in the released checkpoints' format, written without their code."""

import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from video2lora_core.hypernetwork import Hypernetwork

CLASSES = (
    "ctx_to_lora.modeling.hypernet.HypernetConfig",
    "ctx_to_lora.modeling.aggregator.AggregatorConfig",
    "ctx_to_lora.configs.CtxEncoderArguments",
    "peft.tuners.lora.config.LoraConfig",
)


@contextmanager
def authors_classes() -> Iterator[dict[str, type]]:
    """Empty classes under the names of the authors' code, importable inside the block only."""
    made, fakes = {}, {}
    for path in CLASSES:
        module_name, _, name = path.rpartition(".")
        parts = module_name.split(".")
        for end in range(1, len(parts) + 1):
            part = ".".join(parts[:end])
            fakes.setdefault(part, types.ModuleType(part))
        made[name] = type(name, (), {"__module__": module_name})
        setattr(fakes[module_name], name, made[name])
    real = {name: sys.modules[name] for name in fakes if name in sys.modules}
    sys.modules.update(fakes)
    try:
        yield made
    finally:
        for name in fakes:
            del sys.modules[name]
        sys.modules.update(real)


def fields_of(hypernetwork: Hypernetwork) -> dict[str, dict[str, Any]]:
    """What the authors' records hold about a hypernetwork."""
    config = hypernetwork.config
    return {
        "lora": {
            "r": config.rank,
            "lora_alpha": config.scaling,
            "target_modules": {module.name for module in config.modules},
            "rank_pattern": {},
        },
        "perceiver": {
            "aggregator_type": "perceiver",
            "feature_size": config.d_model,
            "n_latent_queries": config.num_latents,
            "num_blocks": config.num_cross_blocks,
            "num_self_attn_per_block": config.num_self_per_block,
            "shared_weights": config.shared_weights,
            "layer_to_layer_ctx_encoder": True,
            "num_extra_modules": 0,
            "pooling_type": "mean",
        },
        "hypernet": {
            "latent_size": config.d_latent,
            "per_rank_gen": True,
            "use_bias": True,
            "num_pre_head_layers": config.num_residual_mlps,
            "layer_indices": torch.tensor(config.layers),
            "feature_sizes": (
                {module.name: module.d_in for module in config.modules},
                {module.name: module.d_out for module in config.modules},
            ),
        },
        "encoder": {"ctx_encoder_type": "per_layer_activations"},
    }


def write_released(
    path: Path,
    hypernetwork: Hypernetwork,
    *,
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    without: tuple[str, ...] = (),
    prefix: str = "",
    dtype: torch.dtype = torch.float32,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write `hypernetwork` as the authors do; `changes` go into its records, by short name."""
    fields = fields_of(hypernetwork)
    for name, values in (changes or {}).items():
        fields[name].update(values)
    for name in without:
        fields["hypernet"].pop(name)
    with authors_classes() as classes:
        fields["hypernet"]["lora_config"] = _filled(classes["LoraConfig"], fields["lora"])
        fields["hypernet"]["aggregator_config"] = _filled(
            classes["AggregatorConfig"], fields["perceiver"]
        )
        state: OrderedDict[str, Any] = OrderedDict(
            (prefix + name, tensor.to(dtype)) for name, tensor in hypernetwork.state_dict().items()
        )
        state.update(tensors or {})
        state["base_model_name_or_path"] = "someone/SmolVLM2"
        state["hypernet_config"] = _filled(classes["HypernetConfig"], fields["hypernet"])
        state["ctx_encoder_args"] = _filled(classes["CtxEncoderArguments"], fields["encoder"])
        torch.save(state, path)
    return path


def rewritten(
    source: Path,
    path: Path,
    *,
    program: bytes | None = None,
    extra: Mapping[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Copy a `.pt` with another pickle, more entries, or compressed ones."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            is_program = name.endswith("/data.pkl") and program is not None
            new.writestr(name, program if is_program else old.read(name))
        for name, data in (extra or {}).items():
            new.writestr(name, data)
    return path


def program_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(n for n in archive.namelist() if n.endswith("/data.pkl")))


def _filled(cls: type, fields: Mapping[str, Any]) -> Any:
    made = cls()
    vars(made).update(fields)
    return made
