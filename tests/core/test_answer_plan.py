"""Batches: every question once, no batch over a limit, ranks and lengths together."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.answer_plan import MAX_ZERO_RANKS, plan_batches
from video2lora_core.errors import UsageError

ROW = st.tuples(st.integers(1, 120), st.sampled_from((0, 16, 32, 48, 208, 1040)))
ROWS = st.lists(ROW, max_size=200)
LIMITS = st.fixed_dictionaries(
    {
        "max_rows": st.integers(1, 70),
        "max_tokens": st.none() | st.integers(1, 3000),
        "max_zero_ranks": st.integers(0, 4000),
    }
)


@given(rows=ROWS, limits=LIMITS)
def test_every_row_is_in_one_batch_and_no_batch_is_over_a_limit(rows, limits):
    batches = plan_batches(rows, **limits)
    assert sorted(row for batch in batches for row in batch) == list(range(len(rows)))
    assert all(batches)
    for batch in batches:
        tokens, ranks = zip(*(rows[row] for row in batch), strict=True)
        assert len(batch) <= limits["max_rows"]
        assert sum(max(ranks) - rank for rank in ranks) <= limits["max_zero_ranks"]
        if limits["max_tokens"] is not None and len(batch) > 1:
            assert max(tokens) * len(batch) <= limits["max_tokens"]


@given(rows=ROWS, limits=LIMITS, seed=st.integers(0, 9))
def test_the_batches_depend_on_the_rows_and_not_on_their_order(rows, limits, seed):
    shuffled = random.Random(seed).sample(rows, len(rows))
    first, second = plan_batches(rows, **limits), plan_batches(shuffled, **limits)
    assert [[rows[i] for i in b] for b in first] == [[shuffled[i] for i in b] for b in second]
    assert plan_batches(rows, **limits) == first


@given(rows=ROWS, limits=LIMITS)
def test_no_two_neighbours_could_have_been_one_batch(rows, limits):
    batches = plan_batches(rows, **limits)
    for before, after in itertools.pairwise(batches):
        joined = [rows[row] for row in [*before, after[0]]]
        tokens, ranks = zip(*joined, strict=True)
        is_over = (
            len(joined) > limits["max_rows"]
            or sum(max(ranks) - rank for rank in ranks) > limits["max_zero_ranks"]
            or max(tokens) * len(joined) > (limits["max_tokens"] or 10**9)
        )
        assert is_over


def test_like_ranks_and_like_lengths_stand_together():
    rows = [(tokens, rank) for tokens in (8, 40) for rank in (32, 1040) for _ in range(4)]
    batches = plan_batches(rows, max_rows=4)
    assert [{rows[row] for row in batch} for batch in batches] == [
        {(40, 1040)},
        {(8, 1040)},
        {(40, 32)},
        {(8, 32)},
    ]
    (together,) = plan_batches([(8, 32), (8, 1040)], max_rows=4)
    assert len(together) == 2
    assert len(plan_batches([(8, 1040), *[(8, 32)] * 3], max_rows=9)) == 2
    assert 3 * (1040 - 32) > MAX_ZERO_RANKS > 1040 - 32


def test_a_limit_below_one_is_refused():
    for limits in ({"max_rows": 0}, {"max_rows": 1, "max_tokens": 0}):
        with pytest.raises(UsageError, match="expected at least 1, 1 and 0"):
            plan_batches([(8, 32)], **limits)
    with pytest.raises(UsageError, match="correct the limits"):
        plan_batches([(8, 32)], max_rows=1, max_zero_ranks=-1)
