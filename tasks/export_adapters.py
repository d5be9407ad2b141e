"""Write adapters as PEFT directories, for PEFT or for vLLM: whole or not at all.

    adapters/<name>/    a PEFT directory per adapter, named by its content
    base/               with `bias="merged"`: the base model's copy with the bias in its weights
    export.json         what was written and from which files, for `verify-export`
    serving.json        for vLLM: the ranks, the modules and the list of requests
    README.md           how to load it

The bias counts exactly once: among every adapter's ranks, or in a directory of its own, or in the
weights of the base's copy. A name never stands for two contents: vLLM keeps what it saw under a
name.
"""

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

from configs.schema import ModelConfig
from storage.lake import Lake
from tasks.compose_adapters import fetch_sum
from tasks.export_text import readme, serving
from tasks.members import Members, Part, require_fitting
from tasks.recipe import identify_model
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.checkpoint import checkpoint_from_files
from video2lora_core.compose import bias_only, with_bias
from video2lora_core.errors import AdapterError, UsageError
from video2lora_core.merged_base import write_merged_base
from video2lora_core.peft_format import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_from_peft,
    peft_files,
    vllm_rank,
)

Purpose = Literal["peft", "vllm"]
BiasPlace = Literal["included", "apart", "merged"]
Dtype = Literal["float32", "bfloat16"]
Word = TypeVar("Word", bound=str)
FORMAT_VERSION = 1
DESCRIPTION_FILE = "export.json"

_NAME_DIGITS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """How adapters are written."""

    purpose: Purpose = "peft"
    """peft, or vllm: ranks padded to its slots, and a serving list."""
    bias: BiasPlace = "included"
    """Where the bias goes."""
    dtype: Dtype = "float32"
    """Number format of the files."""
    base_name: str | None = None
    """Name that the base is loaded or served by; the model config's where not given."""

    def __post_init__(self) -> None:
        if self.purpose == "vllm" and self.bias == "apart":
            raise UsageError(
                "export: vLLM uses one adapter per prompt, so a bias apart would never be added; "
                "give --bias included or --bias merged"
            )


def export_settings(
    *, purpose: str, bias: str, dtype: str, base_name: str | None = None
) -> ExportSettings:
    """Return the settings that were asked for in words.

    Raises:
        UsageError: one of them is unknown.
    """
    return ExportSettings(
        purpose=_known("--for", purpose, ("peft", "vllm")),
        bias=_known("--bias", bias, ("included", "apart", "merged")),
        dtype=_known("--dtype", dtype, ("float32", "bfloat16")),
        base_name=base_name,
    )


def read_peft(directory: Path, *, has_bias: bool | None = None) -> Adapter:
    """Read a PEFT directory as an adapter.

    Raises:
        AdapterError: a file is missing, or it is no plain LoRA of SmolVLM's text blocks.
    """
    try:
        files = {name: (directory / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    except OSError as error:
        raise AdapterError(
            f"{error.filename}: cannot be read ({error.strerror}); give a PEFT directory with "
            f"{CONFIG_FILE} and {WEIGHTS_FILE}"
        ) from error
    return adapter_from_peft(files, has_bias=has_bias)


def export_adapters(
    lake: Lake,
    wanted: Iterable[tuple[str, Members]],
    out: Path,
    *,
    model: ModelConfig,
    settings: ExportSettings,
) -> dict[str, Any]:
    """Write one PEFT directory per (label, members); return what export.json says.

    Raises:
        UsageError: `out` holds something else, or lies in the lake.
        ModelMismatchError: an adapter was made with another model than `model`.
        AdapterError: a rank is above what vLLM serves.
    """
    target = _checked_target(out, lake)
    bias = _Bias(lake, model)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        description = _write(lake, wanted, partial, bias=bias, model=model, settings=settings)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return description


def _known(option: str, value: str, known: tuple[Word, ...]) -> Word:
    for word in known:
        if value == word:
            return word
    raise UsageError(f"export: {option} {value!r} is unknown; give one of {', '.join(known)}")


class _Bias:
    """The bias of the model's checkpoint, read from the lake's own copy of it."""

    def __init__(self, lake: Lake, model: ModelConfig) -> None:
        self.identity = identify_model(model)
        sha256 = self.identity.checkpoint_sha256
        files = lake.get_checkpoint(sha256)
        self._network = checkpoint_from_files(files, where=f"checkpoint {sha256}").hypernetwork

    @property
    def rank(self) -> int:
        return int(next(iter(self.factors().values())).a.shape[-2])

    def factors(self) -> dict[str, Factors]:
        found = self._network.bias_factors()
        return {n: Factors(a=f.a.detach(), b=f.b.detach()) for n, f in found.items()}

    def adapter(self) -> Adapter:
        config = self._network.config
        return bias_only(
            self.factors(),
            layers=config.layers,
            scaling=config.scaling,
            checkpoint_sha256=self.identity.checkpoint_sha256,
        )


def _write(
    lake: Lake,
    wanted: Iterable[tuple[str, Members]],
    partial: Path,
    *,
    bias: _Bias,
    model: ModelConfig,
    settings: ExportSettings,
) -> dict[str, Any]:
    base = settings.base_name or model.vlm.hub_id or str(model.vlm.path)
    if settings.bias == "merged":
        base = f"{base}+bias-{bias.identity.checkpoint_sha256[:12]}"
    writer = _Writer(partial, base=base, bias_rank=bias.rank, settings=settings)
    for label, members in wanted:
        require_fitting(members.rows, bias.identity)
        adapter = fetch_sum(lake, members.parts)
        if settings.bias == "included":
            adapter = with_bias(adapter, bias.factors())
        writer.add(adapter, label=label, parts=members.parts)
    lost = None
    if settings.bias == "apart":
        writer.add(bias.adapter(), label="the bias", parts=(), is_bias=True)
    elif settings.bias == "merged":
        lost = _biased_base(model, partial / "base", bias.adapter())
    description = {
        "format": "video2lora-export",
        "format_version": FORMAT_VERSION,
        "for": settings.purpose,
        "bias": settings.bias,
        "bias_lost_in_rounding": lost,
        "base_model": base,
        "model_weights_sha256": bias.identity.weights_sha256,
        "checkpoint_sha256": bias.identity.checkpoint_sha256,
        "dtype": settings.dtype,
        "lake": lake.uri,
        "adapters": writer.entries,
    }
    _write_texts(partial, description)
    return description


class _Writer:
    """Writes PEFT directories and remembers what it wrote."""

    def __init__(
        self, partial: Path, *, base: str, bias_rank: int, settings: ExportSettings
    ) -> None:
        self._folder = partial / "adapters"
        self._base, self._bias_rank, self._settings = base, bias_rank, settings
        self.entries: list[dict[str, Any]] = []

    def add(
        self, adapter: Adapter, *, label: str, parts: Sequence[Part], is_bias: bool = False
    ) -> None:
        """Write one adapter under the name that its bytes give it; the same twice is one."""
        files = peft_files(
            adapter,
            base_model=self._base,
            bias_rank=self._bias_rank,
            bias_only=is_bias,
            rank=vllm_rank(adapter.rank) if self._settings.purpose == "vllm" else None,
            dtype=getattr(torch, self._settings.dtype),
        )
        digest = hashlib.sha256()
        for name in sorted(files):
            digest.update(hashlib.sha256(files[name]).digest())
        kind = "bias" if is_bias else "adapter"
        name = f"{kind}-{digest.hexdigest()[:_NAME_DIGITS]}"
        directory = self._folder / name
        if directory.exists():
            return
        directory.mkdir(parents=True)
        for file, data in files.items():
            (directory / file).write_bytes(data)
        self.entries.append(_entry(name, label, adapter, parts, files, is_bias=is_bias))


def _entry(
    name: str,
    label: str,
    adapter: Adapter,
    parts: Sequence[Part],
    files: Mapping[str, bytes],
    *,
    is_bias: bool,
) -> dict[str, Any]:
    config = json.loads(files[CONFIG_FILE])
    return {
        "name": name,
        "label": label,
        "is_bias": is_bias,
        "rank": adapter.rank,
        "exported_rank": config["r"],
        "lora_alpha": config["lora_alpha"],
        "modules": sorted(adapter.factors),
        "num_layers": len(adapter.layers),
        "parts": [{"file": p.file_sha256, "coefficient": p.coefficient} for p in parts],
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in sorted(files.items())},
    }


def _biased_base(model: ModelConfig, target: Path, bias: Adapter) -> float:
    if model.vlm.path is None:
        raise UsageError(
            f"export: the base {model.vlm.hub_id} is not a local directory (expected one, to copy "
            "it); download it and name it by `path` in the model config, or keep the bias included"
        )
    return write_merged_base(Path(model.vlm.path), target, bias)


def _write_texts(partial: Path, description: Mapping[str, Any]) -> None:
    texts = {DESCRIPTION_FILE: json.dumps(description, indent=2) + "\n"}
    texts["README.md"] = readme(description)
    if description["for"] == "vllm":
        texts |= serving(description)
    partial.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")


def _checked_target(out: Path, lake: Lake) -> Path:
    target = Path(os.path.abspath(out.expanduser()))  # noqa: PTH100 (a link is to be seen, not followed)
    inside = target.resolve().is_relative_to(Path(lake.uri)) if "://" not in lake.uri else False
    if target.is_symlink() or target.is_file() or inside:
        raise UsageError(
            f"export: {target} is a link, a file, or lies in the lake (expected a directory of its "
            "own); give another --out"
        )
    if target.is_dir() and any(target.iterdir()) and not (target / DESCRIPTION_FILE).is_file():
        raise UsageError(
            f"export: {target} holds files and no export (expected an empty or new directory); "
            "give another --out"
        )
    return target


def _publish(partial: Path, target: Path) -> None:
    """Rename into place; the same export may be there already, another may not."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(target)  # over an empty directory too, never over a full one
    except OSError as error:
        if not target.is_dir() or not _same(partial, target):
            raise UsageError(
                f"export: {target} holds another export, or cannot be written ({error.strerror}); "
                "give another --out"
            ) from None


def _same(first: Path, second: Path) -> bool:
    names = [sorted(p.relative_to(top) for p in top.rglob("*")) for top in (first, second)]
    files = [name for name in names[0] if (first / name).is_file()]
    return names[0] == names[1] and all(
        filecmp.cmp(first / name, second / name, shallow=False) for name in files
    )
