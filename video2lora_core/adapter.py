"""Adapters: the factors of a segment or of a composition, and their bytes.

A stored adapter holds segment factors only and never the bias (it lives with the checkpoint and is
added once, when an adapter is used). Its bytes are a safetensors file of two stacked tensors per
target module, `<module>.A` [layer, rank, d_in] and `<module>.B` [layer, rank, d_out], with string
metadata; equal adapters give equal bytes. Format 1 holds floats. Format 2 holds int8, with each
tensor's scales beside it as `<module>.A.scale` [layer, rank]; reading gives floats again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from video2lora_core.errors import AdapterError
from video2lora_core.int8 import quantise, restore
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

FORMAT = "video2lora-adapter"
_FLOATS, _INT8 = "1", "2"
FORMAT_VERSIONS = {"bfloat16": _FLOATS, "float32": _FLOATS, "int8": _INT8}
"""Format version by stored dtype: floats stay readable by whatever read them before int8."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Factors:
    """Low-rank factors of one target module: update = scaling * B^T A, layer by layer."""

    a: Float[Tensor, "*rows layer rank d_in"]
    b: Float[Tensor, "*rows layer rank d_out"]

    def to(self, *, device: torch.device | str | None, dtype: torch.dtype | None) -> "Factors":
        """Move or cast both; None leaves as it is."""
        return Factors(a=self.a.to(device, dtype), b=self.b.to(device, dtype))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Adapter:
    """The update of one segment or of one composition; a [layer, rank, d_in] per module."""

    factors: Mapping[str, Factors]
    """By target module."""
    layers: tuple[int, ...]
    """Decoder layers covered, in the order of the factors' layer axis."""
    scaling: float
    """The one multiplier of the update."""
    checkpoint_sha256: str
    """The hypernetwork checkpoint that made it."""
    has_bias: bool = False
    """Whether the checkpoint's bias is among the ranks: then it is ready to be injected."""

    def __post_init__(self) -> None:
        _check_shapes("Adapter", self.factors, self.layers, ndim=3)

    @property
    def rank(self) -> int:
        """Rows of A and B, the bias's included where it is in."""
        return next(iter(self.factors.values())).a.shape[-2]

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Adapter":
        """Move or cast the factors."""
        return replace(self, factors=_moved(self.factors, device, dtype))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdapterBatch:
    """One adapter per batch row; a [row, layer, rank, d_in] per module, zero-padded in rank."""

    factors: Mapping[str, Factors]
    """By target module."""
    layers: tuple[int, ...]
    """Decoder layers covered, in the order of the factors' layer axis."""
    scaling: float
    """The one multiplier of the updates."""
    has_bias: bool
    """Whether every row holds the checkpoint's bias."""

    def __post_init__(self) -> None:
        _check_shapes("AdapterBatch", self.factors, self.layers, ndim=4)

    @property
    def num_rows(self) -> int:
        """Adapters in the batch."""
        return next(iter(self.factors.values())).a.shape[0]

    @property
    def rank(self) -> int:
        """Rows of A and B after padding."""
        return next(iter(self.factors.values())).a.shape[-2]

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "AdapterBatch":
        """Move or cast the factors."""
        return replace(self, factors=_moved(self.factors, device, dtype))


def adapter_bytes(adapter: Adapter, *, dtype: torch.dtype = torch.bfloat16) -> bytes:
    """Serialise a segment adapter or a composition without bias, as floats or as int8.

    Raises:
        AdapterError: the adapter contains the bias, or numbers that int8 cannot stand for.
    """
    require_no_bias("adapter_bytes", [adapter])
    tensors: dict[str, Tensor] = {}
    for name, factors in adapter.factors.items():
        tensors |= _stored(f"{name}.A", factors.a, dtype) | _stored(f"{name}.B", factors.b, dtype)
    metadata = {
        "format": FORMAT,
        "format_version": _INT8 if dtype == torch.int8 else _FLOATS,
        "bias": "excluded",
        "checkpoint_sha256": adapter.checkpoint_sha256,
        "layers": json.dumps(adapter.layers),
        "rank": str(adapter.rank),
        "scaling": repr(float(adapter.scaling)),
    }
    return tensor_bytes(tensors, metadata=metadata)


def adapter_from_bytes(data: bytes) -> Adapter:
    """Read what `adapter_bytes` wrote; int8 becomes float32.

    Raises:
        AdapterError: the bytes are no such file, or one of another format version.
    """
    try:
        tensors, metadata = read_tensor_bytes(data)
    except ValueError as error:
        raise AdapterError(f"adapter_from_bytes: {error}; fetch the adapter again") from error
    version = metadata.get("format_version")
    found = (metadata.get("format"), version, metadata.get("bias"))
    if found not in {(FORMAT, known, "excluded") for known in (_FLOATS, _INT8)}:
        raise AdapterError(
            f"adapter_from_bytes: format, version and bias are {found}, expected "
            f"{(FORMAT, f'{_FLOATS} or {_INT8}', 'excluded')}; read it with the release that "
            "wrote it"
        )
    try:
        layers, scaling = tuple(json.loads(metadata["layers"])), float(metadata["scaling"])
        checkpoint_sha256 = metadata["checkpoint_sha256"]
    except (KeyError, ValueError) as error:
        raise AdapterError(
            f"adapter_from_bytes: metadata lacks or garbles {error}; fetch the adapter again"
        ) from error
    return Adapter(
        factors=_paired(_restored(tensors) if version == _INT8 else tensors),
        layers=layers,
        scaling=scaling,
        checkpoint_sha256=checkpoint_sha256,
    )


def require_no_bias(where: str, adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that hold the bias where only segment factors belong."""
    if any(adapter.has_bias for adapter in adapters):
        raise AdapterError(
            f"{where}: an adapter contains the bias already, it must be added exactly once; "
            "compose and reduce first, add the bias last"
        )


def _stored(name: str, factor: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return what stands for a factor in a file."""
    if dtype != torch.int8:
        return {name: factor.to(dtype)}
    try:
        levels, step = quantise(factor)
    except ValueError as error:
        raise AdapterError(
            f"adapter_bytes: {name}: {error}; check an adapter before it is stored"
        ) from error
    return {name: levels, f"{name}.scale": step}


def _restored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the floats that a file's int8 tensors and their scales stand for."""
    levels = {name: t for name, t in tensors.items() if not name.endswith(".scale")}
    kinds = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    expected = {name: (torch.int8, tuple(t.shape)) for name, t in levels.items()}
    expected |= {
        f"{name}.scale": (torch.float32, tuple(t.shape[:-1])) for name, t in levels.items()
    }
    if kinds != expected:
        raise AdapterError(
            f"adapter_from_bytes: int8 tensors and scales are {kinds}, expected {expected}; fetch "
            "the adapter again"
        )
    return {name: restore(t, tensors[f"{name}.scale"]) for name, t in levels.items()}


def _paired(tensors: Mapping[str, Tensor]) -> dict[str, Factors]:
    names = sorted({key.rpartition(".")[0] for key in tensors})
    if {f"{name}.{side}" for name in names for side in "AB"} != set(tensors):
        raise AdapterError(
            f"adapter_from_bytes: tensors are {sorted(tensors)}, expected .A and .B of each "
            "module; fetch the adapter again"
        )
    return {name: Factors(a=tensors[f"{name}.A"], b=tensors[f"{name}.B"]) for name in names}


def _moved(
    factors: Mapping[str, Factors], device: torch.device | str | None, dtype: torch.dtype | None
) -> dict[str, Factors]:
    return {name: f.to(device=device, dtype=dtype) for name, f in factors.items()}


def _check_shapes(
    where: str, factors: Mapping[str, Factors], layers: tuple[int, ...], *, ndim: int
) -> None:
    """All modules must agree on rows and rank, and have one entry per covered layer."""
    leads = {
        tuple(tensor.shape[:-1]) if tensor.ndim == ndim else ("ndim", tensor.ndim)
        for f in factors.values()
        for tensor in (f.a, f.b)
    }
    if len(leads) != 1 or next(iter(leads))[-2] != len(layers):
        shapes = {name: (tuple(f.a.shape), tuple(f.b.shape)) for name, f in factors.items()}
        raise AdapterError(
            f"{where}: factors are {shapes}, expected [{'row, ' * (ndim - 3)}layer, rank, d] with "
            f"one rank and {len(layers)} layers; build it from one hypernetwork's factors"
        )
