"""The files a stage leaves: its newest state, its best parameters, and a pointer that names both.

States are safetensors; the pointer is JSON and written last, so it names what is whole. Whatever it
does not name is swept away after the next save.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

POINTER = "state.json"  # names the newest state that is whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Best:
    """The parameters that did best on held-out batches."""

    step: int
    """Steps made before they were measured."""
    loss: float
    """Mean held-out loss."""
    file: str
    """Where they are, beside the pointer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved:
    """What the pointer says."""

    step: int = 0
    """Steps made; 0 where nothing was saved."""
    best: Best | None = None
    """The best parameters so far, where any were measured."""
    pending: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Metrics seen since the last line of the log."""


def save_state(
    directory: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    saved: Saved,
) -> None:
    """Save parameters and optimiser, then point to them, then sweep what is not pointed to."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    file = directory / f"state-{saved.step:06d}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    pointer = directory / POINTER
    draft = pointer.with_suffix(".draft")
    content: dict[str, Any] = {"step": saved.step, "file": file.name}
    if saved.best is not None:
        content["best"] = asdict(saved.best)
    if saved.pending:
        content["pending"] = saved.pending
    draft.write_text(json.dumps(content))
    draft.replace(pointer)
    kept = {file.name, saved.best.file if saved.best else ""}
    for old in (*directory.glob("state-*.safetensors"), *directory.glob("best-*.safetensors")):
        if old.name not in kept:
            old.unlink()


def read_pointer(directory: Path) -> Saved:
    """Return what was saved last."""
    pointer = directory / POINTER
    if not pointer.exists():
        return Saved()
    content = json.loads(pointer.read_text())
    best = content.get("best")
    return Saved(
        step=int(content["step"]),
        best=None if best is None else Best(**best),
        pending=content.get("pending", {}),
    )


def forget_state(directory: Path) -> None:
    """Let the next resume start from nothing."""
    (directory / POINTER).unlink(missing_ok=True)


def load_state(
    directory: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Saved:
    """Bring parameters and optimiser to where the pointer says, and return what it says."""
    saved = read_pointer(directory)
    if not saved.step:
        return saved
    tensors = load_file(directory / f"state-{saved.step:06d}.safetensors")
    _copy(tensors, parameters)
    for name, parameter in parameters.items():
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): _placed(value, parameter)
            for key, value in tensors.items()
            if key.startswith(prefix) and "." not in key.removeprefix(prefix)
        }
    return saved


def save_best(
    directory: Path, parameters: Mapping[str, nn.Parameter], *, step: int, loss: float
) -> Best:
    """Save parameters that did better than all before; the next state points to them."""
    file = directory / f"best-{step:06d}.safetensors"
    save_file({f"parameter.{n}": p.detach().contiguous() for n, p in parameters.items()}, file)
    return Best(step=step, loss=loss, file=file.name)


def load_best(directory: Path, parameters: Mapping[str, nn.Parameter]) -> Best | None:
    """Bring parameters to the best held-out loss; None, and nothing changed, without any."""
    best = read_pointer(directory).best
    if best is not None:
        _copy(load_file(directory / best.file), parameters)
    return best


@torch.no_grad()
def _copy(tensors: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(tensors[f"parameter.{name}"])


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    """Moments go where their parameter is; the fused optimiser wants its step count there too."""
    return value.clone().to(parameter.device)
