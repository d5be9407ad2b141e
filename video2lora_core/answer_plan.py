"""How many questions are put into batches, and when one adapter is merged: pure decisions.

Their constants were measured on a slice of the 500M (docs/benchmarks.md, Questions); they say what
is worth doing, never what comes out.
"""

from collections.abc import Sequence

from video2lora_core.errors import UsageError

MAX_ZERO_RANKS = 2048
"""Zero rows of A and B that a batch may carry, over all its rows. The decoder of the 500M has as
many numbers as 3,200 ranks of its adapters, so a forward more would cost more than these."""

MERGING_STEPS = 90
"""Forwards with one adapter from which adding it to the weights is the faster way: 36 to 88 were
measured with one row, over ranks from 16 to 1040 and in no order of them."""

MERGING_STEPS_BATCHED = 31
"""The same from BATCHED_ROWS rows on, where injecting costs more: 12 to 31 were measured."""

BATCHED_ROWS = 16


def plan_batches(
    rows: Sequence[tuple[int, int]],
    *,
    max_rows: int,
    max_tokens: int | None = None,
    max_zero_ranks: int = MAX_ZERO_RANKS,
) -> list[tuple[int, ...]]:
    """Group questions into batches of like rank and, within a rank, of like length.

    Args:
        rows: tokens of the prompt and rank of the adapter, for each question.
        max_rows: most questions of a batch.
        max_tokens: most tokens of a batch, padding included; a longer prompt stands alone. None
            sets no limit.
        max_zero_ranks: most zeros of a batch that pad ranks to its largest.

    Returns:
        Positions in `rows`, batch by batch, each exactly once; the same rows give the same batches.

    Raises:
        UsageError: a limit is below 1 (the zeros' may be 0).
    """
    if max_rows < 1 or max_zero_ranks < 0 or (max_tokens is not None and max_tokens < 1):
        raise UsageError(
            f"plan_batches: max_rows {max_rows}, max_tokens {max_tokens}, max_zero_ranks "
            f"{max_zero_ranks} (expected at least 1, 1 and 0); correct the limits"
        )
    order = sorted(range(len(rows)), key=lambda row: (-rows[row][1], -rows[row][0], row))
    batches: list[list[int]] = []
    longest = highest = zeros = 0
    for row in order:
        num_tokens, rank = rows[row]
        is_open = bool(batches) and len(batches[-1]) < max_rows
        if is_open and max_tokens is not None:
            is_open = max(longest, num_tokens) * (len(batches[-1]) + 1) <= max_tokens
        if is_open and zeros + highest - rank <= max_zero_ranks:
            batches[-1].append(row)
            longest, zeros = max(longest, num_tokens), zeros + highest - rank
        else:
            batches.append([row])
            longest, highest, zeros = num_tokens, rank, 0
    return [tuple(batch) for batch in batches]


def is_merging_faster(num_steps: int, *, num_rows: int) -> bool:
    """Say whether merged weights are expected to take less time than injecting.

    The rank is not asked for: what merging costs and what it saves both grow with it.

    Args:
        num_steps: forwards of the model expected with one adapter: for each batch of questions
            one, and one more for each token of its longest answer.
        num_rows: questions of a batch.
    """
    return num_steps > (MERGING_STEPS_BATCHED if num_rows >= BATCHED_ROWS else MERGING_STEPS)
