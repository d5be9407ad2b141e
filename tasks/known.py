"""What the lake already knows about some sources under a recipe: why no work is done twice.

A source is the same file as before where uri, size and version token are. What is known of it
spares, in this order: reading its bytes, opening it, decoding it and running the model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from configs.schema import SegmentConfig
from storage.lake import Lake
from storage.lookups import KnownVideo, Span
from storage.manifest import Source
from storage.schemas import Row
from video2lora_core.segments import Segment, tile


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The catalog's facts about a set of sources, under one recipe."""

    lake: Lake
    recipe_id: str
    videos: dict[str, KnownVideo]
    """By source_id: files that were read before and have not changed."""
    rejected: dict[str, Row]
    """By source_id: the reject of the whole video, where it need not be tried again."""
    num_rejects: Counter[str]
    """By source_id: rejects that may be tried again."""
    done: dict[str, set[Span]]
    """By video_id of `videos`: spans that have an adapter or a terminal reject."""
    met: frozenset[str]
    """Every video that the recipe has met: a file may be new and its content not."""
    num_uncomposed: Counter[str]
    """By video_id: adapters that the video's largest composition lacks."""
    deleted: set[str]
    """Videos that were deleted and stay so."""

    def is_finished(self, source: Source, rule: SegmentConfig) -> bool:
        """Say whether nothing is left to do for a source."""
        if source.source_id in self.rejected:
            return True
        video = self.videos.get(source.source_id)
        if video is None:
            return False
        if video.video_id in self.deleted:
            return True
        if video.duration_us is None or self.num_uncomposed[video.video_id]:
            return False
        done = self.done_spans(video.video_id)
        planned = plan_segments(video.duration_us, rule)
        return all((segment.start_us, segment.end_us) in done for segment in planned)

    def done_spans(self, video_id: str) -> set[Span]:
        """Return the spans of a video that need no more work."""
        if video_id not in self.done and video_id in self.met:
            found = self.lake.done_segments(self.recipe_id, [video_id])
            self.done[video_id] = found.get(video_id, set())
        return self.done.get(video_id, set())


def plan_segments(duration_us: int, rule: SegmentConfig) -> tuple[Segment, ...]:
    """Cut a video of this length into segments."""
    return tile(duration_us, segment_us=rule.segment_us, min_tail_us=rule.min_tail_us)


def look_up(
    lake: Lake, sources: Sequence[Source], *, recipe_id: str, run_id: str | None = None
) -> Known:
    """Read what the catalog holds about `sources`.

    A whole video that `run_id` itself rejected stays rejected, even where another run may try
    it again: a repeated attempt must meet the same units.
    """
    videos = lake.known_videos(sources, recipe_id)
    video_ids = sorted({video.video_id for video in videos.values()})
    rejects = _rejects(lake, sources, recipe_id)
    whole = [row for row in rejects if row["adapter_key"] is None]
    return Known(
        lake=lake,
        recipe_id=recipe_id,
        videos=videos,
        rejected={
            row["source_id"]: row for row in whole if row["is_terminal"] or row["run_id"] == run_id
        },
        num_rejects=Counter(row["source_id"] for row in rejects if not row["is_terminal"]),
        done=lake.done_segments(recipe_id, video_ids) if video_ids else {},
        met=_met(lake, recipe_id),
        num_uncomposed=_uncomposed(lake, recipe_id, video_ids),
        deleted=lake.deleted_videos(),
    )


def _rejects(lake: Lake, sources: Sequence[Source], recipe_id: str) -> list[Row]:
    version = {source.source_id: (source.size_bytes, source.version_token) for source in sources}
    where = pc.field("recipe_id") == recipe_id
    where = where & pc.field("source_id").isin(_texts(version))
    rows = lake.catalog.read("rejects", where=where).to_pylist()
    return [
        row
        for row in rows
        if version[row["source_id"]] == (row["size_bytes"], row["version_token"])
    ]


def _met(lake: Lake, recipe_id: str) -> frozenset[str]:
    where = pc.field("recipe_id") == recipe_id
    rows = lake.catalog.read("videos", columns=("video_id",), where=where)
    return frozenset(rows["video_id"].unique().to_pylist())


def _texts(values: Iterable[str]) -> pa.Array:
    """A typed array: an empty list would have no type to compare with."""
    return pa.array(list(values), pa.string())


def _uncomposed(lake: Lake, recipe_id: str, video_ids: Sequence[str]) -> Counter[str]:
    where = (pc.field("recipe_id") == recipe_id) & pc.field("video_id").isin(_texts(video_ids))
    made = lake.catalog.read(
        "segments",
        columns=("adapter_key", "video_id"),
        where=where & (pc.field("outcome") == "adapter"),
    ).to_pylist()
    composed = lake.catalog.read(
        "compositions", columns=("video_id", "num_segments"), where=where
    ).to_pylist()
    missing = Counter({row["adapter_key"]: row["video_id"] for row in made}.values())
    for video_id in missing:
        sizes = [row["num_segments"] for row in composed if row["video_id"] == video_id]
        missing[video_id] -= max(sizes, default=0)
    return +missing
