"""Injection: a frozen model uses an adapter inside `with adapted(model, adapter):`, only there.

y = W x + scaling * B^T (A x), as forward hooks on the target modules of the covered decoder
layers. Weights are never touched; the hooks are gone when the block ends, also by an exception.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from video2lora_core.adapter import Adapter, AdapterBatch
from video2lora_core.errors import ModelMismatchError, UsageError


@contextmanager
def adapted(model: nn.Module, adapter: Adapter | AdapterBatch) -> Iterator[None]:
    """Make `model` use `adapter` inside the block; an AdapterBatch has one adapter per row.

    Differentiable in the factors. They are cast to each target's dtype and device.

    Raises:
        ModelMismatchError: the adapter's layers, modules or widths do not fit the model.
        UsageError: an adapter is injected already, or the batch rows do not match the input's.
    """
    widths = {name: (f.a.shape[-1], f.b.shape[-1]) for name, f in adapter.factors.items()}
    targets = target_linears(model, layers=adapter.layers, widths=widths)
    _refuse_nesting(model)
    handles = []
    try:
        for (position, name), linear in targets.items():
            a = adapter.factors[name].a[..., position, :, :].to(linear.weight)
            b = adapter.factors[name].b[..., position, :, :].to(linear.weight)
            update = LowRankUpdate(a, b, scaling=adapter.scaling)
            handles.append(linear.register_forward_hook(update))
        yield
    finally:
        for handle in handles:
            handle.remove()


class LowRankUpdate:
    """The forward hook of one target module; a [rank, d_in], or [row, rank, d_in] per row."""

    def __init__(self, a: Tensor, b: Tensor, *, scaling: float) -> None:
        self.a, self.b, self.scaling = a, b, scaling

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add the update to the module's output [row, token, d_out]."""
        x = args[0]
        if self.a.ndim == 2:
            hidden = x.flatten(0, -2) @ self.a.mT
            y = torch.addmm(output.flatten(0, -2), hidden, self.b, alpha=self.scaling)
            return y.view_as(output)
        if x.shape[0] != self.a.shape[0]:
            raise UsageError(
                f"adapted: {x.shape[0]} input rows for {self.a.shape[0]} adapters; "
                "give one adapter per row"
            )
        return torch.baddbmm(output, x @ self.a.mT, self.b, alpha=self.scaling)


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the text decoder's blocks of a SmolVLM-architecture model.

    Raises:
        ModelMismatchError: the model has none at `model.text_model.layers`.
    """
    node: object = model
    for name in ("model", "text_model", "layers"):
        node = getattr(node, name, None)
    if not isinstance(node, nn.ModuleList):
        raise ModelMismatchError(
            f"decoder_layers: {type(model).__name__} has no model.text_model.layers; "
            "use a SmolVLMForConditionalGeneration"
        )
    return node


def target_linears(
    model: nn.Module, *, layers: Iterable[int], widths: Mapping[str, tuple[int, int]]
) -> dict[tuple[int, str], nn.Linear]:
    """Find the linear layers to update, by (position in `layers`, module name).

    Raises:
        ModelMismatchError: a layer or module is missing, or of other widths (d_in, d_out).
    """
    blocks = decoder_layers(model)
    targets = {}
    for position, layer in enumerate(layers):
        if layer >= len(blocks):
            raise ModelMismatchError(
                f"adapted: decoder layer {layer} wanted, the model has layers 0 to "
                f"{len(blocks) - 1}; use the model that the adapter was made for"
            )
        for name, expected in widths.items():
            targets[position, name] = _target(blocks[layer], f"layer {layer}", name, expected)
    return targets


def _target(block: nn.Module, where: str, name: str, expected: tuple[int, int]) -> nn.Linear:
    for parent in ("mlp", "self_attn"):
        linear = getattr(getattr(block, parent, None), name, None)
        if isinstance(linear, nn.Linear):
            break
    else:
        raise ModelMismatchError(
            f"adapted: {where} has no linear {name} in its mlp or self_attn; "
            "use the model that the adapter was made for"
        )
    found = (linear.in_features, linear.out_features)
    if found != expected:
        raise ModelMismatchError(
            f"adapted: {where} {name} is {found[0]} -> {found[1]} in the model, "
            f"{expected[0]} -> {expected[1]} in the adapter; "
            "use the model that the adapter was made for"
        )
    return linear


def _refuse_nesting(model: nn.Module) -> None:
    for module in decoder_layers(model).modules():
        if any(isinstance(hook, LowRankUpdate) for hook in module._forward_hooks.values()):
            raise UsageError(
                "adapted: the model has an adapter injected already; leave that block first, or "
                "compose both adapters into one"
            )
