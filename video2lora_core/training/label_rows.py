"""Prompts with their targets as one padded batch, and where the labels stand in it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRows:
    """Rows of a prompt and its target, padded on the right; labels are listed row by row."""

    ids: Int[Tensor, "row token"]
    mask: Int[Tensor, "row token"]
    label_row: Int[Tensor, " label"]
    label_column: Int[Tensor, " label"]
    """The position whose logits predict the label: the one before it."""
    label_id: Int[Tensor, " label"]
    num_labels: tuple[int, ...]
    """Labels of each row."""

    def to(self, device: torch.device | str) -> "LabelRows":
        """Move the tensors."""
        return LabelRows(
            ids=self.ids.to(device),
            mask=self.mask.to(device),
            label_row=self.label_row.to(device),
            label_column=self.label_column.to(device),
            label_id=self.label_id.to(device),
            num_labels=self.num_labels,
        )

    def by_row(self, label_logits: Float[Tensor, "label vocab"]) -> list[Tensor]:
        """Split logits at the labels into those of each row."""
        return list(label_logits.split(list(self.num_labels)))


def label_rows(
    prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, pad_id: int
) -> LabelRows:
    """Put each target behind its prompt; every id of a target is a label, nothing else is."""
    rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
    ids = torch.full((len(rows), max(map(len, rows))), pad_id)
    mask = torch.zeros_like(ids)
    labels = []
    for row, (prompt, target) in enumerate(zip(prompts, targets, strict=True)):
        ids[row, : len(rows[row])] = torch.tensor(rows[row])
        mask[row, : len(rows[row])] = 1
        first = len(prompt) - 1
        labels += [(row, first + offset, label) for offset, label in enumerate(target)]
    label_row, label_column, label_id = torch.tensor(labels).unbind(1)
    return LabelRows(
        ids=ids,
        mask=mask,
        label_row=label_row,
        label_column=label_column,
        label_id=label_id,
        num_labels=tuple(map(len, targets)),
    )
