"""Which spans of a video an example asks about, and how a span is cut into segments.

A video's tiles (its segments under the model's rule) stand for scenes. A span is a run of them: one
tile, some adjacent ones, or all (METHOD.md: 60/30/10). It is then cut into pieces, each a segment
of its own with its own adapter: one piece is the paper's single pass over the whole span, several
are a composition. Pieces follow the tiles' borders, so they tile the span exactly.
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from video2lora_core.errors import UsageError
from video2lora_core.segments import Segment

SpanKind = Literal["scene", "adjacent", "full"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpanShares:
    """How often a span is of which kind; relative to each other."""

    scene: float = 0.6
    adjacent: float = 0.3
    full: float = 0.1
    max_adjacent: int = 4
    """Most tiles of an adjacent span; at least two."""

    def __post_init__(self) -> None:
        shares = (self.scene, self.adjacent, self.full)
        if min(shares) < 0 or not sum(shares) or self.max_adjacent < 2:
            raise UsageError(
                f"spans: shares are {shares}, max_adjacent {self.max_adjacent} (expected shares of "
                "at least 0, not all 0, and at least 2 tiles); correct the training config"
            )


def draw_span(
    rng: random.Random, tiles: Sequence[Segment], shares: SpanShares
) -> tuple[SpanKind, tuple[Segment, ...]]:
    """Draw the tiles of one span.

    A video of one tile has no other span: its span is a scene, whatever was drawn.
    """
    kinds: tuple[SpanKind, ...] = ("scene", "adjacent", "full")
    kind = rng.choices(kinds, weights=(shares.scene, shares.adjacent, shares.full))[0]
    if len(tiles) == 1 or kind == "scene":
        return "scene", (rng.choice(tiles),)
    if kind == "full":
        return "full", tuple(tiles)
    length = rng.randint(2, min(shares.max_adjacent, len(tiles)))
    first = rng.randrange(len(tiles) - length + 1)
    return "adjacent", tuple(tiles[first : first + length])


def draw_count(rng: random.Random, shares: Mapping[int, float], *, limit: int) -> int:
    """Draw a number by its share among those up to `limit`; `limit` itself where none is left."""
    allowed = {count: share for count, share in sorted(shares.items()) if count <= limit and share}
    if not allowed:
        return limit
    return rng.choices(list(allowed), weights=list(allowed.values()))[0]


def cut_span(tiles: Sequence[Segment], count: int) -> tuple[Segment, ...]:
    """Join neighbouring tiles into `count` pieces of nearly as many tiles each.

    Raises:
        UsageError: there are fewer tiles than pieces.
    """
    if not 1 <= count <= len(tiles):
        raise UsageError(
            f"cut_span: {count} pieces of {len(tiles)} tiles (expected 1 to {len(tiles)}); ask for "
            "fewer"
        )
    borders = [len(tiles) * index // count for index in range(count + 1)]
    return tuple(
        Segment(start_us=tiles[first].start_us, end_us=tiles[last - 1].end_us)
        for first, last in itertools.pairwise(borders)
    )
