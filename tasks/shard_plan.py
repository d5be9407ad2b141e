"""What is fixed about one attempt at a shard before its first video is opened."""

from collections.abc import Sequence
from dataclasses import dataclass

from configs.schema import SegmentConfig
from storage.manifest import Source
from storage.schemas import Row


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardPlan:
    """Which videos, by which rule, in which units."""

    run_id: str
    shard: int
    recipe_id: str
    sources: Sequence[Source]
    """In plan order: their segments are numbered in it."""
    first_unit: int
    """The first unit that is not committed."""
    unit_segments: int
    """Segments that are committed together."""
    ahead_segments: int
    """How far decoding may be ahead of the oldest open unit's end."""
    batch_segments: int
    """Segments per device batch."""
    rule: SegmentConfig
    """How videos are cut."""
    corpus_name: str
    common: Row
    """What every row of this attempt carries."""
