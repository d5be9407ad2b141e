"""Pack many short question blocks into one row per video: one forward pass serves them all.

A row is the video's prefix (or nothing), then question blocks. Each block sees the prefix and
itself, and its positions go on from the end of the prefix, as if it were alone behind it. A blind
block does not see the prefix and counts from zero. The arg-max of a teacher-forced row says
whether greedy decoding would give the exact answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from video2lora_core.training.losses import cross_entropy

_PREFIX, _PADDING = 0, -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One question: the ids given, the ids to be predicted; a blind one does not see the prefix."""

    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    is_blind: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRows:
    """Rows of packed blocks; blocks are counted over the whole batch, row by row.

    `label_*` list every predicted token: its row, the position whose logits predict it, its id and
    its block. `answer_column` is, per block, the position of the last given token (the one that
    opens the answer).
    """

    ids: Int[Tensor, "row token"]
    positions: Int[Tensor, "row token"]
    mask: Bool[Tensor, "row 1 token token"]
    label_row: Int[Tensor, " label"]
    label_column: Int[Tensor, " label"]
    label_id: Int[Tensor, " label"]
    label_block: Int[Tensor, " label"]
    block_row: Int[Tensor, " block"]
    answer_column: Int[Tensor, " block"]

    @property
    def num_blocks(self) -> int:
        """Number of blocks in all rows."""
        return len(self.block_row)


def pack(
    rows: Sequence[Sequence[Block]], *, prefix_ids: Sequence[int] = (), pad_id: int
) -> PackedRows:
    """Pack one list of blocks per row behind a prefix of the same ids in every row."""
    width = len(prefix_ids) + max(
        sum(len(b.prompt_ids) + len(b.target_ids) for b in blocks) for blocks in rows
    )
    ids = torch.full((len(rows), width), pad_id)
    positions = torch.zeros(len(rows), width, dtype=torch.long)
    owner = torch.full_like(ids, _PADDING)  # which block of its row a token belongs to
    sees_prefix = torch.zeros(len(rows), width, dtype=torch.bool)
    start = len(prefix_ids)
    ids[:, :start] = torch.tensor(prefix_ids, dtype=torch.long)
    positions[:, :start] = torch.arange(start)
    owner[:, :start], sees_prefix[:, :start] = _PREFIX, True
    labels: list[tuple[int, int, int, int]] = []
    openings: list[tuple[int, int]] = []
    for row, blocks in enumerate(rows):
        column = start
        for number, block in enumerate(blocks, start=1):
            text = block.prompt_ids + block.target_ids
            end, answer = column + len(text), column + len(block.prompt_ids)
            first = 0 if block.is_blind else start
            ids[row, column:end] = torch.tensor(text)
            positions[row, column:end] = torch.arange(first, first + len(text))
            owner[row, column:end], sees_prefix[row, column:end] = number, not block.is_blind
            for offset, target in enumerate(block.target_ids):
                labels.append((row, answer + offset - 1, target, len(openings)))
            openings.append((row, answer - 1))
            column = end
    label_row, label_column, label_id, label_block = torch.tensor(labels).unbind(1)
    block_row, answer_column = torch.tensor(openings).unbind(1)
    return PackedRows(
        ids=ids,
        positions=positions,
        mask=_mask(owner, sees_prefix),
        label_row=label_row,
        label_column=label_column,
        label_id=label_id,
        label_block=label_block,
        block_row=block_row,
        answer_column=answer_column,
    )


def _mask(
    owner: Int[Tensor, "row token"], sees_prefix: Bool[Tensor, "row token"]
) -> Bool[Tensor, "row 1 token token"]:
    same = owner[:, :, None] == owner[:, None, :]  # padding sees padding: no empty softmax row
    prefix = sees_prefix[:, :, None] & (owner[:, None, :] == _PREFIX)
    return ((same | prefix).tril())[:, None]


def answer_loss(
    label_logits: Float[Tensor, "label vocab"], rows: PackedRows
) -> tuple[Float[Tensor, ""], Bool[Tensor, " block"]]:
    """Return the loss and, per block, whether every token of its answer would be decoded greedily.

    The loss is the mean over a block's tokens, then over blocks, in fp32 (METHOD: training).
    """
    loss = cross_entropy(label_logits, rows.label_id, rows.label_block, num_samples=rows.num_blocks)
    wrong = (label_logits.argmax(-1) != rows.label_id).long()
    num_wrong = torch.zeros(rows.num_blocks, dtype=torch.long, device=wrong.device)
    return loss, num_wrong.index_add(0, rows.label_block, wrong) == 0
