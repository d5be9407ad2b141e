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
from video2lora_core.row_groups import RowGroups, group_rows
from video2lora_core.vlm import Vlm


@contextmanager
def adapted(
    model: nn.Module,
    adapter: Adapter | AdapterBatch,
    *,
    row_adapters: Sequence[int] | None = None,
) -> Iterator["Injection"]:
    """Make `model` use `adapter` inside the block; an AdapterBatch has one adapter per row.

    Differentiable in the factors. They are cast to each target's dtype and device.

    Args:
        model: the answer model.
        adapter: one for every row, or a batch of them.
        row_adapters: for a batch, which of its adapters each row uses; row i uses adapter i if
            None.

    Raises:
        ModelMismatchError: the adapter's layers, modules or widths do not fit the model.
        UsageError: an adapter is injected already, or the batch rows do not match the input's.
    """
    targets = _targets(model, adapter)
    groups = _groups(adapter, row_adapters)
    handles = []
    updates: list[LowRankUpdate] = []
    try:
        for (position, name), linear in targets.items():
            a = adapter.factors[name].a[..., position, :, :].to(linear.weight)
            b = adapter.factors[name].b[..., position, :, :].to(linear.weight)
            updates.append(LowRankUpdate(a, b, scaling=adapter.scaling))
            handles.append(linear.register_forward_hook(updates[-1]))
        yield Injection(updates, groups)
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

    def __init__(self, updates: "Sequence[LowRankUpdate]", groups: RowGroups | None = None) -> None:
        self._updates, self._groups = updates, groups
        if groups is not None:
            self._lay_out(groups, {adapter: adapter for adapter in groups.slot_adapters})

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows of the batch only; adapters that serve every row stay."""
        if self._groups is None:
            return
        old = self._groups
        self._groups = group_rows([old.row_adapters[row] for row in rows.tolist()])
        slots = {adapter: slot for slot, adapter in enumerate(old.slot_adapters)}
        self._lay_out(self._groups, slots)

    def _lay_out(self, groups: RowGroups, held_at: Mapping[int, int]) -> None:
        """Bring each slot's adapter to its place; `held_at` says where each one stands now."""
        index = [held_at[adapter] for adapter in groups.slot_adapters]
        for update in self._updates:
            if index != list(range(len(update.a))):
                update.a, update.b = update.a[index], update.b[index]
            update.lay_out(groups)


class MergedWeight(nn.Parameter):
    """A second weight, by which a model tells that an adapter is in it."""


class LowRankUpdate:
    """The forward hook of one target module; a [rank, d_in], or [slot, rank, d_in] by row."""

    def __init__(self, a: Tensor, b: Tensor, *, scaling: float) -> None:
        self.a, self.b, self.scaling = a, b, scaling
        self.groups: RowGroups | None = None
        """Which rows use which slot; None where one adapter serves every row."""
        self._place_rows = self._row_places = torch.empty(0)

    def lay_out(self, groups: RowGroups) -> None:
        """Use the factors as the slots of these groups."""
        self.groups = groups
        if not groups.is_plain:
            self._place_rows = torch.tensor(groups.place_rows, device=self.a.device)
            self._row_places = torch.tensor(groups.row_places, device=self.a.device)

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Add the update to the module's output [row, token, d_out]."""
        x, groups = args[0], self.groups
        if groups is None:
            hidden = x.flatten(0, -2) @ self.a.mT
            y = torch.addmm(output.flatten(0, -2), hidden, self.b, alpha=self.scaling)
            return y.view_as(output)
        if x.shape[0] != len(groups.row_adapters):
            raise UsageError(
                f"adapted: {x.shape[0]} input rows for {len(groups.row_adapters)} adapters; "
                "give one adapter per row"
            )
        if groups.is_plain:
            return torch.baddbmm(output, x @ self.a.mT, self.b, alpha=self.scaling)
        num_slots, num_tokens = len(groups.slot_adapters), x.shape[1]
        x_slots = x[self._place_rows].view(num_slots, groups.width * num_tokens, -1)
        update = (x_slots @ self.a.mT @ self.b).view(-1, num_tokens, output.shape[-1])
        return output.add(update[self._row_places], alpha=self.scaling)


def is_injected(model: nn.Module) -> bool:
    """Say whether an adapter is in the model, by hooks or by second weights."""
    if any(isinstance(parameter, MergedWeight) for parameter in model.parameters()):
        return True
    return any(True for _ in _updates_in(model))


def has_row_adapters(model: nn.Module) -> bool:
    """Say whether the model has an adapter for each row, so that a batch must keep its rows."""
    return any(update.groups is not None for update in _updates_in(model))


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


def _groups(
    adapter: Adapter | AdapterBatch, row_adapters: Sequence[int] | None
) -> RowGroups | None:
    if isinstance(adapter, Adapter):
        if row_adapters is not None:
            raise UsageError(
                "adapted: row_adapters with a single adapter (expected a batch of them); leave "
                "row_adapters out"
            )
        return None
    rows = range(adapter.num_rows) if row_adapters is None else row_adapters
    if not rows or not all(0 <= row < adapter.num_rows for row in rows):
        raise UsageError(
            f"adapted: row_adapters are {list(rows)} (expected numbers from 0 to "
            f"{adapter.num_rows - 1}); name one of the batch's adapters for each row"
        )
    return group_rows(rows)


def _updates_in(model: nn.Module) -> Iterator[LowRankUpdate]:
    for module in model.modules():
        for hook in module._forward_hooks.values():
            if isinstance(hook, LowRankUpdate):
                yield hook
