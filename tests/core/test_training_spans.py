"""Spans: runs of tiles drawn by a mixture, cut into pieces that tile them."""

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.errors import UsageError
from video2lora_core.segments import Segment, tile
from video2lora_core.training.spans import SpanShares, cut_span, draw_count, draw_span

lengths_s = st.integers(1, 60)


def tiles_of(seconds: int) -> tuple[Segment, ...]:
    return tile(seconds * 1_000_000, segment_us=4_000_000, min_tail_us=2_000_000)


@given(lengths_s, st.integers(0, 99), st.integers(2, 5))
def test_a_span_is_a_run_of_tiles_of_its_kind(seconds: int, seed: int, most: int) -> None:
    tiles = tiles_of(seconds)
    kind, span = draw_span(random.Random(seed), tiles, SpanShares(max_adjacent=most))
    first = tiles.index(span[0])
    assert span == tiles[first : first + len(span)]
    if kind == "scene":
        assert len(span) == 1
    elif kind == "full":
        assert span == tiles
    else:
        assert 2 <= len(span) <= most


@given(lengths_s, st.data())
def test_pieces_tile_the_span_and_are_nearly_alike(seconds: int, data: st.DataObject) -> None:
    tiles = tiles_of(seconds)
    count = data.draw(st.integers(1, len(tiles)))
    pieces = cut_span(tiles, count)
    assert len(pieces) == count
    assert (pieces[0].start_us, pieces[-1].end_us) == (tiles[0].start_us, tiles[-1].end_us)
    assert all(a.end_us == b.start_us for a, b in itertools.pairwise(pieces))
    sizes = [sum(p.start_us <= t.start_us < p.end_us for t in tiles) for p in pieces]
    assert max(sizes) - min(sizes) <= 1


def test_kinds_come_by_their_shares() -> None:
    tiles = tile(40_000_000, segment_us=4_000_000, min_tail_us=2_000_000)
    rng = random.Random(1)
    drawn = Counter(draw_span(rng, tiles, SpanShares())[0] for _ in range(4000))
    # Five standard errors of a share of 0.6 in 4000 draws are 0.039.
    for kind, share in (("scene", 0.6), ("adjacent", 0.3), ("full", 0.1)):
        assert drawn[kind] / 4000 == pytest.approx(share, abs=0.04)


@given(st.dictionaries(st.integers(1, 8), st.floats(0.1, 1)), st.integers(1, 8), st.integers())
def test_a_number_is_drawn_up_to_its_limit(shares: dict, limit: int, seed: int) -> None:
    count = draw_count(random.Random(seed), shares, limit=limit)
    assert count <= limit
    assert count in shares or not [n for n in shares if n <= limit]


def test_wrong_shares_and_cuts_are_refused() -> None:
    with pytest.raises(UsageError, match="not all 0"):
        SpanShares(scene=0.0, adjacent=0.0, full=0.0)
    tiles = tile(8_000_000, segment_us=4_000_000, min_tail_us=0)
    with pytest.raises(UsageError, match="3 pieces of 2 tiles"):
        cut_span(tiles, 3)
