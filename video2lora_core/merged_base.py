"""A second copy of a base model, with an adapter added to its weights; the original stays.

Only safetensors files are read and written, one tensor type at a time, so nothing depends on how a
model class saves itself. A base in bfloat16 rounds the update away in part: how much is returned.
"""

import math
import re
import shutil
from pathlib import Path

import torch
from torch import Tensor

from video2lora_core.adapter import Adapter
from video2lora_core.errors import ModelMismatchError
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

_COPIED = ("*.json", "*.txt", "*.jinja", "*.model")


def write_merged_base(source: Path, target: Path, adapter: Adapter) -> float:
    """Copy a model directory and add the adapter's update to the weights of the copy.

    Args:
        source: directory with config.json, tokenizer.json and model*.safetensors.
        target: where the copy goes; it must not be there yet.
        adapter: what is added, usually the bias alone.

    Returns:
        The part of the update that rounding to the weights' own type lost, as a relative norm.

    Raises:
        ModelMismatchError: the weights lack a layer or module of the adapter.
    """
    target.mkdir(parents=True)
    for pattern in _COPIED:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, target / path.name)
    wanted = {(layer, name) for layer in adapter.layers for name in adapter.factors}
    lost, had = [], []
    for path in sorted(source.glob("model*.safetensors")):
        tensors, metadata = read_tensor_bytes(path.read_bytes())
        for key, tensor in tensors.items():
            place = _place(key)
            if place in wanted:
                update = _update(adapter, *place)
                tensors[key] = (tensor.float() + update).to(tensor.dtype)
                rounded = tensors[key].double() - tensor.double() - update.double()
                lost.append(rounded.square().sum().item())
                had.append(update.double().square().sum().item())
                wanted.remove(place)
        (target / path.name).write_bytes(tensor_bytes(tensors, metadata=metadata))
    if wanted:
        raise ModelMismatchError(
            f"write_merged_base: {source} has no weight for (layer, module) {min(wanted)} and "
            f"{len(wanted) - 1} more (expected text_model.layers.N.mlp or self_attn); use the "
            "model that the checkpoint was trained for"
        )
    return math.sqrt(math.fsum(lost) / math.fsum(had)) if math.fsum(had) > 0 else 0.0


def _place(key: str) -> tuple[int, str]:
    pattern = r".*text_model\.layers\.(\d+)\.(?:mlp|self_attn)\.(\w+)\.weight"
    match = re.fullmatch(pattern, key)
    return (int(match[1]), match[2]) if match else (-1, "")


def _update(adapter: Adapter, layer: int, name: str) -> Tensor:
    position, f = adapter.layers.index(layer), adapter.factors[name]
    a, b = f.a[position].to(torch.float32), f.b[position].to(torch.float32)
    return adapter.scaling * (b.mT @ a)
