"""How many questions are put into batches, and when one adapter is merged: pure decisions.

Their constants were measured on a slice of the 500M (docs/benchmarks.md, Questions); they say what
is worth doing, never what comes out.
"""

from collections.abc import Sequence

from video2lora_core.errors import UsageError

MAX_ZERO_RANKS = 2048
"""Zero rows of A and B that a batch may carry, over all its rows. A forward of the 500M costs about
as much as reading 3,000 more, so a batch of its own would be dearer than this padding."""

MERGING_STEPS = 40
"""Forwards with one adapter from which adding it to the weights is the faster way."""


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


def is_merging_faster(*, rank: int, num_steps: int) -> bool:
    """Say whether `answer(..., is_merged=True)` is expected to take less time than injecting.

    Args:
        rank: of the adapter, the bias included.
        num_steps: forwards of the model expected with this one adapter: for each batch of
            questions one, and one more for each token of its longest answer.
    """
    return rank > 0 and num_steps > MERGING_STEPS
