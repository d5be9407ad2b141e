"""What an adapter file holds, read without torch: shapes, number formats, finiteness."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

_DTYPES: Final = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int8": "I8"}
_WORDS: Final[Mapping[str, np.dtype[Any]]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
# All exponent bits set: an infinity or a NaN, and numpy has no bfloat16 to ask.
_BF16_EXPONENT: Final = np.uint16(0x7F80)
_LONGEST_HEADER: Final = 2**24


def read_header(data: bytes) -> dict[str, Any]:
    """Return the header of a safetensors file.

    Raises:
        ValueError: the bytes are no whole safetensors file.
    """
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, _LONGEST_HEADER):
        raise ValueError("not a safetensors file")
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [info["data_offsets"][1] for name, info in header.items() if name[0] != "_"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a safetensors file") from error
    if max(ends, default=0) != len(data) - 8 - size:
        raise ValueError("not a whole safetensors file")
    return dict(header)


def disagreements(header: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    """List where a file's tensors are not what its catalog row says."""
    tensors = {name: info for name, info in header.items() if name != "__metadata__"}
    expected = _expected_dtypes(row)
    if set(tensors) != set(expected):
        yield f"tensors {sorted(tensors)}, expected {sorted(expected)}"
    lead = [len(row["layers"]), row["rank"]]
    for name, info in sorted(tensors.items()):
        is_scale = name.endswith(".scale")
        if len(info["shape"]) != (2 if is_scale else 3) or info["shape"][:2] != lead:
            width = "" if is_scale else ", d"
            yield f"{name} has shape {info['shape']}, expected [{lead[0]}, {lead[1]}{width}]"
        if name in expected and info["dtype"] != expected[name]:
            yield f"{name} is {info['dtype']}, expected {expected[name]}"
    found = header.get("__metadata__", {}).get("checkpoint_sha256")
    if found != row["checkpoint_sha256"]:
        yield f"made by checkpoint {str(found)[:12]}, expected {row['checkpoint_sha256'][:12]}"


def _expected_dtypes(row: Mapping[str, Any]) -> dict[str, str | None]:
    """Map the tensors of an adapter to their number formats: int8 has a scale per rank row."""
    factors = [f"{module}.{side}" for module in row["modules"] for side in "AB"]
    expected: dict[str, str | None] = dict.fromkeys(factors, _DTYPES.get(row["dtype"]))
    if row["dtype"] == "int8":
        expected |= {f"{name}.scale": _DTYPES["float32"] for name in factors}
    return expected


def not_finite(header: Mapping[str, Any], data: bytes) -> list[str]:
    """Name the tensors that hold an infinity or a NaN."""
    start = 8 + int.from_bytes(data[:8], "little")
    found = []
    for name, info in header.items():
        kind = _WORDS.get(info.get("dtype", ""))
        if kind is None:
            continue
        first, last = info["data_offsets"]
        words = np.frombuffer(data[start + first : start + last], dtype=kind)
        if info["dtype"] == "BF16":
            is_bad = bool(np.any((words & _BF16_EXPONENT) == _BF16_EXPONENT))
        else:
            is_bad = not bool(np.all(np.isfinite(words)))
        if is_bad:
            found.append(name)
    return found
