"""Adapters as PEFT directories, and back: `adapter_config.json` + `adapter_model.safetensors`.

PEFT and vLLM multiply by `lora_alpha / r`, so `lora_alpha = scaling * rank` leaves A and B as they
are. `target_modules` is a regular expression that matches the covered layers and nothing else.
rsLoRA, DoRA, LoRA biases and saved modules are never written, and refused when read: PEFT and vLLM
disagree about them. Ranks may be padded with zeros, which changes nothing but the file.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors
from video2lora_core.errors import AdapterError
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` of vLLM may be."""

_PARENTS: Final = {
    **dict.fromkeys(("down_proj", "gate_proj", "up_proj"), "mlp"),
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
}
_KEY: Final = re.compile(
    r"base_model\.model\.model\.text_model\.layers\.(\d+)\.(\w+)\.(\w+)\.lora_([AB])\.weight"
)
# Each of them changes what PEFT computes, and none of them is ours.
_PLAIN: Final[Mapping[str, Any]] = {
    "use_rslora": False,
    "use_dora": False,
    "lora_bias": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftOrigin:
    """What a PEFT directory of ours says about its adapter beside PEFT's own fields."""

    checkpoint_sha256: str
    """The hypernetwork checkpoint that made it."""
    scaling: float
    """The multiplier of the update, exactly."""
    bias: str
    """included, excluded, or only."""
    rank: int
    """Ranks before padding, the bias's included."""
    bias_rank: int
    """Ranks of the checkpoint's bias; where it is in they stand last, before the padding."""


def peft_keys(layers: Sequence[int], modules: Sequence[str]) -> set[str]:
    """List the tensors of a PEFT file that covers these layers and modules."""
    return {_key(layer, name, side) for layer in layers for name in modules for side in "AB"}


def peft_files(
    adapter: Adapter,
    *,
    base_model: str,
    bias_rank: int,
    bias_only: bool = False,
    rank: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, bytes]:
    """Serialise an adapter as PEFT does: file name -> bytes, the same for the same adapter.

    Args:
        adapter: what is written, with the bias or without.
        base_model: the name that the base model is loaded or served by.
        bias_rank: ranks of the checkpoint's bias; they are the adapter's last ones if it is in.
        bias_only: whether the adapter is the bias and nothing else.
        rank: zero-pad up to this rank.
        dtype: number format of the file.

    Raises:
        AdapterError: a module has no place in a SmolVLM's blocks, or `rank` is too small.
    """
    unknown = sorted(set(adapter.factors) - set(_PARENTS))
    if unknown or (rank or adapter.rank) < adapter.rank:
        raise AdapterError(
            f"peft_files: modules {unknown} are unknown, or rank {adapter.rank} is above {rank} "
            f"(expected modules of {sorted(_PARENTS)}); export another adapter"
        )
    padded = _padded(adapter, rank or adapter.rank)
    tensors = {}
    for name, f in padded.factors.items():
        for position, layer in enumerate(adapter.layers):
            tensors[_key(layer, name, "A")] = f.a[position].to(dtype)
            tensors[_key(layer, name, "B")] = f.b[position].mT.to(dtype)
    origin = {
        "checkpoint_sha256": adapter.checkpoint_sha256,
        "scaling": float(adapter.scaling),
        "bias": "only" if bias_only else "included" if adapter.has_bias else "excluded",
        "rank": adapter.rank,
        "bias_rank": bias_rank,
    }
    metadata = {"format": "pt", "video2lora": json.dumps(origin, sort_keys=True)}
    config = _config(padded, base_model=base_model)
    return {
        CONFIG_FILE: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS_FILE: tensor_bytes(tensors, metadata=metadata),
    }


def vllm_rank(rank: int) -> int:
    """Return the smallest rank that vLLM has slots for.

    Raises:
        AdapterError: there is none.
    """
    for slot in VLLM_RANKS:
        if rank <= slot:
            return slot
    raise AdapterError(
        f"vllm_rank: rank {rank} is above what vLLM serves (found {rank}, expected at most "
        f"{VLLM_RANKS[-1]}); reduce it first: `video2lora compose --method svd --rank R --save`, "
        "then export that composition"
    )


def adapter_from_peft(
    files: Mapping[str, bytes],
    *,
    has_bias: bool | None = None,
    is_padding_kept: bool = False,
    is_bias_kept: bool = True,
) -> Adapter:
    """Turn the files of a PEFT directory into an adapter.

    Args:
        files: `adapter_config.json` and `adapter_model.safetensors`.
        has_bias: whether the ranks hold the checkpoint's bias; needed where the directory is not
            one of ours, refused where it contradicts what ours says.
        is_padding_kept: keep trailing ranks that are zero.
        is_bias_kept: False takes the bias's ranks off, which leaves a raw adapter.

    Raises:
        AdapterError: the files are no plain LoRA of SmolVLM's text blocks.
    """
    config, tensors, origin = _read(files)
    factors, layers = _stacked(tensors, rank=config["r"])
    scaling = config["lora_alpha"] / config["r"]
    if origin is not None and abs(origin.scaling - scaling) <= 1e-12 * scaling:
        scaling = origin.scaling  # the division may have cost the last bit
    adapter = Adapter(
        factors=factors,
        layers=layers,
        scaling=scaling,
        # A stranger's own hash fits no checkpoint, and no other stranger.
        checkpoint_sha256=origin.checkpoint_sha256 if origin else _stranger(files),
        has_bias=_has_bias(origin, has_bias),
    )
    if not is_bias_kept:
        return _without_bias(adapter, origin)
    if is_padding_kept:
        return adapter
    return _leading(adapter, origin.rank if origin else _last_used(adapter))


def peft_origin(weights: bytes) -> PeftOrigin | None:
    """Read what one of our PEFT files says about itself; None where it is not ours."""
    metadata = _tensors(weights)[1]
    text = metadata.get("video2lora")
    return PeftOrigin(**json.loads(text)) if text else None


def _config(adapter: Adapter, *, base_model: str) -> dict[str, Any]:
    alpha = adapter.scaling * adapter.rank
    modules = "|".join(rf"{_PARENTS[name]}\.{name}" for name in sorted(adapter.factors))
    layers = "|".join(map(str, adapter.layers))
    return {
        **_PLAIN,
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": adapter.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "target_modules": rf".*text_model\.layers\.({layers})\.({modules})",
    }


def _key(layer: int, name: str, side: str) -> str:
    place = f"text_model.layers.{layer}.{_PARENTS[name]}.{name}"
    return f"base_model.model.model.{place}.lora_{side}.weight"


def _padded(adapter: Adapter, rank: int) -> Adapter:
    rows = (0, 0, 0, rank - adapter.rank)
    pad = torch.nn.functional.pad
    factors = {n: Factors(a=pad(f.a, rows), b=pad(f.b, rows)) for n, f in adapter.factors.items()}
    return replace(adapter, factors=factors)


def _tensors(weights: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        return read_tensor_bytes(weights)
    except ValueError as error:
        raise AdapterError(f"{WEIGHTS_FILE}: {error}; export the adapter again") from error


def _read(
    files: Mapping[str, bytes],
) -> tuple[dict[str, Any], dict[str, Tensor], PeftOrigin | None]:
    try:
        config: dict[str, Any] = json.loads(files[CONFIG_FILE])
        rank, alpha, kind = config["r"], config["lora_alpha"], config["peft_type"]
    except (KeyError, ValueError, TypeError) as error:
        raise AdapterError(
            f"{CONFIG_FILE}: not a PEFT config of a LoRA ({error!r}); give a PEFT directory"
        ) from error
    odd = {k: config[k] for k, plain in _PLAIN.items() if config.get(k, plain) not in (plain, None)}
    if kind != "LORA" or odd or not rank >= 1 or not alpha > 0:
        raise AdapterError(
            f"{CONFIG_FILE}: type {kind}, r {rank}, lora_alpha {alpha}, {odd} (expected a plain "
            "LoRA with positive numbers); train or export it without these options"
        )
    return config, _tensors(files[WEIGHTS_FILE])[0], peft_origin(files[WEIGHTS_FILE])


def _stacked(
    tensors: Mapping[str, Tensor], *, rank: int
) -> tuple[dict[str, Factors], tuple[int, ...]]:
    found = {key: _KEY.fullmatch(key) for key in tensors}
    places = [match for match in found.values() if match]
    layers = sorted({int(match[1]) for match in places})
    names = sorted({match[3] for match in places})
    known = [name for name in names if name in _PARENTS]
    expected = peft_keys(layers, known)
    if not places or set(tensors) != expected:
        odd = sorted(set(tensors) ^ expected)
        raise AdapterError(
            f"{WEIGHTS_FILE}: tensors do not cover whole layers of text_model (missing or "
            f"unexpected {len(odd)}, e.g. {odd[0] if odd else 'none at all'}); expected keys "
            "base_model.model.model.text_model.layers.N.mlp.NAME.lora_A.weight and lora_B"
        )
    ranks = {t.shape[0] if key.endswith("A.weight") else t.shape[1] for key, t in tensors.items()}
    if ranks != {rank}:
        raise AdapterError(
            f"{WEIGHTS_FILE}: ranks are {sorted(ranks)} (expected {rank}, the config's r); export "
            "the adapter again"
        )
    factors = {
        name: Factors(
            a=torch.stack([tensors[_key(layer, name, "A")] for layer in layers]),
            b=torch.stack([tensors[_key(layer, name, "B")].mT for layer in layers]),
        )
        for name in known
    }
    return factors, tuple(layers)


def _stranger(files: Mapping[str, bytes]) -> str:
    return "peft:" + hashlib.sha256(files[CONFIG_FILE] + files[WEIGHTS_FILE]).hexdigest()


def _has_bias(origin: PeftOrigin | None, given: bool | None) -> bool:
    if origin is None and given is None:
        raise AdapterError(
            f"{WEIGHTS_FILE}: it does not say whether the bias is among its ranks; say so with "
            "has_bias=True or False"
        )
    said = given if origin is None else origin.bias != "excluded"
    if given not in (None, said):
        raise AdapterError(
            f"{WEIGHTS_FILE}: has_bias={given} was given, the file says {said}; leave it out"
        )
    return bool(said)


def _last_used(adapter: Adapter) -> int:
    """Count ranks up to the last one that is not zero in A and B everywhere."""
    sizes = [f.a.abs().amax((0, 2)) * f.b.abs().amax((0, 2)) for f in adapter.factors.values()]
    used = torch.stack(sizes).amax(0).nonzero()
    return int(used.max()) + 1 if len(used) else 1


def _without_bias(adapter: Adapter, origin: PeftOrigin | None) -> Adapter:
    if origin is None or origin.bias != "included":
        raise AdapterError(
            f"{WEIGHTS_FILE}: its bias cannot be taken off (expected a file of ours with the bias "
            "beside segments); import it as it is"
        )
    return replace(_leading(adapter, origin.rank - origin.bias_rank), has_bias=False)


def _leading(adapter: Adapter, rank: int) -> Adapter:
    factors = {n: Factors(a=f.a[:, :rank], b=f.b[:, :rank]) for n, f in adapter.factors.items()}
    return replace(adapter, factors=factors)
