"""Tensors and string metadata as safetensors bytes; equal content gives equal bytes."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor


def tensor_bytes(tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> bytes:
    """Serialise tensors; those that share memory are written once per name."""
    copies = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    data = safetensors.torch.save(copies, metadata=dict(metadata))
    # safetensors orders the metadata at random: write the header again with sorted keys.
    header, body = _split(data)
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def read_tensor_bytes(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata.

    Raises:
        ValueError: the bytes are no safetensors file, or a truncated one.
    """
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file ({error}, {len(data)} bytes)") from error
    return tensors, _split(data)[0].get("__metadata__", {})


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON header, which follows its length as 8 little-endian bytes, and the rest."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]
