"""Injection: a frozen model uses an adapter inside a `with` block, only there.

y = W x + scaling * B^T (A x). `adapted` computes the update beside the weights, as forward hooks on
the target modules of the covered decoder layers, and knows one adapter per row. `merged` puts
W + scaling * B^T A into weights of its own for as long as the block lasts: dearer to begin, no
dearer per token than no adapter. Original weights are never written to, and hooks and second
weights are gone when the block ends, also by an exception.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from video2lora_core.adapter import Adapter, AdapterBatch
from video2lora_core.errors import ModelMismatchError, UsageError
from video2lora_core.vlm import Vlm


@contextmanager
def adapted(model: nn.Module, adapter: Adapter | AdapterBatch) -> Iterator["Injection"]:
    """Make `model` use `adapter` inside the block; an AdapterBatch has one adapter per row.

    Differentiable in the factors. They are cast to each target's dtype and device.

    Raises:
        ModelMismatchError: the adapter's layers, modules or widths do not fit the model.
        UsageError: an adapter is injected already, or the batch rows do not match the input's.
    """
    targets = _targets(model, adapter)
    handles = []
    updates = []
    try:
        for (position, name), linear in targets.items():
            a = adapter.factors[name].a[..., position, :, :].to(linear.weight)
            b = adapter.factors[name].b[..., position, :, :].to(linear.weight)
            updates.append(LowRankUpdate(a, b, scaling=adapter.scaling))
            handles.append(linear.register_forward_hook(updates[-1]))
        yield Injection(updates)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def merged(vlm: Vlm, adapter: Adapter) -> Iterator["Injection"]:
    """Make the VLM use an adapter inside the block through second weights W + update.

    The sum is taken in float32 and rounded once. In bfloat16 that rounding loses some of a small
    update (docs/decisions.md), so answers may differ from `adapted`'s there; in float32 they do
    not.

    Raises:
        ModelMismatchError: the adapter's layers, modules or widths do not fit the model.
        UsageError: an adapter is injected already.
    """
    targets = _targets(vlm.model, adapter)
    originals = {key: linear.weight for key, linear in targets.items()}
    try:
        for (position, name), linear in targets.items():
            f = adapter.factors[name]
            a, b = (x[position].to(linear.weight.device, torch.float32) for x in (f.a, f.b))
            total = torch.addmm(linear.weight.float(), b.mT, a, alpha=adapter.scaling)
            linear.weight = MergedWeight(total.to(linear.weight.dtype), requires_grad=False)
        yield Injection([])
    finally:
        for key, weight in originals.items():
            targets[key].weight = weight


class Injection:
    """What a block of `adapted` or `merged` has put into its model."""

    def __init__(self, updates: "Sequence[LowRankUpdate]") -> None:
        self._updates = updates

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows of the batch only; adapters that serve every row stay."""
        for update in self._updates:
            update.keep_rows(rows)


class MergedWeight(nn.Parameter):
    """A second weight, by which a model tells that an adapter is in it."""


class LowRankUpdate:
    """The forward hook of one target module; a [rank, d_in], or [row, rank, d_in] per row."""

    def __init__(self, a: Tensor, b: Tensor, *, scaling: float) -> None:
        self.a, self.b, self.scaling = a, b, scaling

    @property
    def is_per_row(self) -> bool:
        """Say whether each row has its own adapter."""
        return self.a.ndim == 3

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all other rows."""
        if self.is_per_row:
            self.a, self.b = self.a[rows], self.b[rows]

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add the update to the module's output [row, token, d_out]."""
        x = args[0]
        if not self.is_per_row:
            hidden = x.flatten(0, -2) @ self.a.mT
            y = torch.addmm(output.flatten(0, -2), hidden, self.b, alpha=self.scaling)
            return y.view_as(output)
        if x.shape[0] != self.a.shape[0]:
            raise UsageError(
                f"adapted: {x.shape[0]} input rows for {self.a.shape[0]} adapters; "
                "give one adapter per row"
            )
        return torch.baddbmm(output, x @ self.a.mT, self.b, alpha=self.scaling)


def is_injected(model: nn.Module) -> bool:
    """Say whether an adapter is in the model, by hooks or by second weights."""
    if any(isinstance(parameter, MergedWeight) for parameter in model.parameters()):
        return True
    return any(True for _ in _updates_in(model))


def has_row_adapters(model: nn.Module) -> bool:
    """Say whether the model has an adapter for each row, so that a batch must keep its rows."""
    return any(update.is_per_row for update in _updates_in(model))


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


def _targets(model: nn.Module, adapter: Adapter | AdapterBatch) -> dict[tuple[int, str], nn.Linear]:
    widths = {name: (f.a.shape[-1], f.b.shape[-1]) for name, f in adapter.factors.items()}
    targets = target_linears(model, layers=adapter.layers, widths=widths)
    if is_injected(decoder_layers(model)):
        raise UsageError(
            "adapted: the model has an adapter injected already; leave that block first, or "
            "compose both adapters into one"
        )
    return targets


def _updates_in(model: nn.Module) -> Iterator[LowRankUpdate]:
    for module in model.modules():
        for hook in module._forward_hooks.values():
            if isinstance(hook, LowRankUpdate):
                yield hook
