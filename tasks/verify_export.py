"""Prove an export: load it with the installed PEFT and compare it with the native path.

Three things must hold for every adapter. Every tensor of the file is a tensor of the model and the
other way round; PEFT's logits are those of the lake's own adapters, composed, biased and injected
natively; and they differ from the base model's, because a file that fits nowhere is served as the
base model with hardly a word. All faults are listed, not only the first.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.schema import ModelConfig
from storage.lake import Lake
from tasks.answer_questions import ready
from tasks.compose_adapters import fetch_sum
from tasks.export_adapters import DESCRIPTION_FILE
from tasks.members import Part
from tasks.models import LoadedModel, load_model, pixel_spec, prompt_layout
from video2lora_core.adapter import Adapter
from video2lora_core.errors import AdapterError, ModelMismatchError, UsageError
from video2lora_core.inject import adapted
from video2lora_core.peft_format import WEIGHTS_FILE, peft_keys
from video2lora_core.vlm import load_vlm

# Largest difference of a logit, as a part of the largest change that the adapter makes. Measured at
# most 4e-7 and 5e-3 (docs/exporting.md).
TOLERANCES = {"float32": 1e-4, "bfloat16": 0.03}
_NUM_PROMPTS, _NUM_TOKENS = 4, 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What was found about one exported adapter."""

    name: str
    rank: int
    num_keys: int
    """Tensors of the file that the model has."""
    difference: float
    """Largest difference between PEFT's logits and ours."""
    effect: float
    """Largest difference between our logits and the base model's."""
    faults: tuple[str, ...]
    """Why it must not be used; none where it is right."""


def read_export(directory: Path) -> dict[str, Any]:
    """Return what an export says about itself.

    Raises:
        UsageError: there is no export.
    """
    try:
        found: dict[str, Any] = json.loads((directory / DESCRIPTION_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{directory}: no export here ({DESCRIPTION_FILE}: {error}); give the directory that "
            "`video2lora export` wrote"
        ) from None
    return found


def verify_export(directory: Path, lake: Lake, config: ModelConfig) -> list[Verified]:
    """Check every adapter of an export against the lake that it came from.

    Raises:
        UsageError: there is no export, or PEFT is not installed.
        ModelMismatchError: the export belongs to another model or checkpoint.
    """
    description = read_export(directory)
    model = load_model(config)
    _require_model(description, model)
    base = model.vlm.model
    if description["bias"] == "merged":
        base = _merged_model(directory / "base", config, str(model.vlm.device))
    bias = next((e["name"] for e in description["adapters"] if e["is_bias"]), None)
    ids = _prompt_ids(model)
    with torch.no_grad():
        plain = model.vlm.model(input_ids=ids).logits.float()
        return [
            _verified(directory, entry, lake, model, base=base, bias=bias, ids=ids, plain=plain)
            for entry in description["adapters"]
            if not entry["is_bias"]
        ]


def peft_logits(
    base: Any, directories: Sequence[Path], ids: Tensor
) -> tuple[Tensor, tuple[str, ...]]:
    """Load PEFT directories into a model, together, and return logits and what did not match.

    The model is itself again afterwards.

    Raises:
        UsageError: PEFT is not installed.
    """
    with _loaded(base, directories) as (model, odd):
        return model(input_ids=ids).logits.float(), odd


def _verified(
    directory: Path,
    entry: Mapping[str, Any],
    lake: Lake,
    model: LoadedModel,
    *,
    base: Any,
    bias: str | None,
    ids: Tensor,
    plain: Tensor,
) -> Verified:
    own = ready(model, _reference(lake, entry))
    with adapted(model.vlm.model, own):
        ours = model.vlm.model(input_ids=ids).logits.float()
    names = [entry["name"], *([bias] if bias else [])]
    folders = [directory / "adapters" / name for name in names]
    faults = [*_altered(folders[0], entry)]
    keys = _file_keys(folders[0])
    expected = peft_keys(own.layers, sorted(own.factors))
    if keys != expected:
        faults.append(f"keys: {_differing(keys, expected)}")
    try:
        theirs, odd = peft_logits(base, folders, ids)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        return _broken(entry, faults, f"PEFT cannot load it: {' '.join(str(error).split())[:200]}")
    faults += [f"PEFT: {text}" for text in odd]
    difference, effect = _largest(theirs - ours), _largest(ours - plain)
    dtypes = {str(t).removeprefix("torch.") for t in (model.vlm.dtype, _file_dtype(folders[0]))}
    allowed = max(TOLERANCES[dtype] for dtype in dtypes) * effect + 1e-5 * _largest(plain)
    if not difference <= allowed:  # also when it is no number
        faults.append(f"logits differ from ours by {difference:.2e} (at most {allowed:.2e})")
    if not _largest(theirs - plain) > allowed:
        faults.append("logits are the base model's: the adapter does nothing")
    return Verified(
        name=entry["name"],
        rank=entry["exported_rank"],
        num_keys=len(keys & expected),
        difference=difference,
        effect=effect,
        faults=tuple(faults),
    )


def _broken(entry: Mapping[str, Any], faults: list[str], last: str) -> Verified:
    nan = float("nan")
    return Verified(
        name=entry["name"],
        rank=entry["exported_rank"],
        num_keys=0,
        difference=nan,
        effect=nan,
        faults=(*faults, last),
    )


def _reference(lake: Lake, entry: Mapping[str, Any]) -> Adapter:
    parts = [
        Part(member_id=p["file"], file_sha256=p["file"], coefficient=p["coefficient"])
        for p in entry["parts"]
    ]
    return fetch_sum(lake, parts)


@contextmanager
def _loaded(base: Any, directories: Sequence[Path]) -> Iterator[tuple[Any, tuple[str, ...]]]:
    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise UsageError(
            "verify-export: PEFT is not installed; run `pip install 'video2lora[export]'`"
        ) from None
    odd: list[str] = []
    model = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PEFT would warn of is read from its result instead
        try:
            for number, directory in enumerate(directories):
                name = f"adapter{number}"
                if model is None:
                    model = PeftModel(base, PeftConfig.from_pretrained(str(directory)), name)
                result = model.load_adapter(str(directory), name)
                for what in ("missing_keys", "unexpected_keys"):
                    keys = getattr(result, what)
                    if keys:
                        odd.append(f"{len(keys)} {what.replace('_', ' ')}, e.g. {min(keys)}")
            assert model is not None
            model.base_model.set_adapter([f"adapter{i}" for i in range(len(directories))])
            yield model.eval(), tuple(odd)
        finally:
            if model is not None:
                model.unload()
            if hasattr(base, "peft_config"):
                del base.peft_config


def _require_model(description: Mapping[str, Any], model: LoadedModel) -> None:
    found = (description["checkpoint_sha256"], description["model_weights_sha256"])
    expected = (model.checkpoint.sha256, model.vlm.weights_sha256)
    if found != expected:
        raise ModelMismatchError(
            f"export: made for checkpoint {found[0][:12]} and weights {found[1][:12]}, the "
            f"configured model has {expected[0][:12]} and {expected[1][:12]}; give the --model "
            "that made it"
        )


def _merged_model(directory: Path, config: ModelConfig, device: str) -> Any:
    return load_vlm(
        directory,
        layout=prompt_layout(config),
        pixel_spec=pixel_spec(config),
        dtype=getattr(torch, config.vlm.dtype),
        device=device,
        attention=config.vlm.attention,
    ).model


def _prompt_ids(model: LoadedModel) -> Tensor:
    """Draw prompts of plain words: any text will do to tell two models apart."""
    special = set(model.vlm.tokenizer.get_added_vocab().values())
    vocab = sorted(set(model.vlm.tokenizer.get_vocab().values()) - special)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(vocab), (_NUM_PROMPTS, _NUM_TOKENS), generator=generator)
    return torch.tensor(vocab)[chosen].to(model.vlm.device)


def _altered(directory: Path, entry: Mapping[str, Any]) -> Iterator[str]:
    for file, sha256 in entry["files"].items():
        path = directory / file
        if not path.is_file():
            yield f"{file} is missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            yield f"{file} was altered since it was exported"


def _file_keys(directory: Path) -> set[str]:
    return {key for key, _ in _tensors(directory)}


def _file_dtype(directory: Path) -> torch.dtype:
    return next((tensor.dtype for _, tensor in _tensors(directory)), torch.float32)


def _tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(directory / WEIGHTS_FILE, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                yield key, file.get_tensor(key)
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"{directory / WEIGHTS_FILE}: cannot be read ({error}); export again"
        ) from None


def _differing(found: set[str], expected: set[str]) -> str:
    missing, extra = sorted(expected - found), sorted(found - expected)
    texts = [
        f"{len(keys)} {what}, e.g. {keys[0]}"
        for what, keys in (("missing", missing), ("unexpected", extra))
        if keys
    ]
    return "; ".join(texts)


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())
