"""What the lake already knows about some sources under a recipe: why no work is done twice.

A source is the same file as before where uri, size and version token are. What is known of it
spares, in this order: reading its bytes, opening it, decoding it and running the model.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from configs.schema import SegmentConfig
from storage.lake import Lake
from storage.lookups import KnownVideo, Span, VideoFacts, video_facts
from storage.manifest import Source
from storage.schemas import Row
from video2lora_core.segments import Segment, tile


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """The catalog's facts about a set of sources, under one recipe."""

    lake: Lake
    recipe_id: str
    retried: tuple[str, tuple[str, ...]] | None
    """For a run that retries: its run_id, and the terminal reasons that it tries again."""
    videos: dict[str, KnownVideo]
    """By source_id: files that were read before and have not changed."""
    rejected: dict[str, Row]
    """By source_id: the reject of the whole video, where it need not be tried again."""
    done: dict[str, set[Span]]
    """By video_id of `videos`: spans that have an adapter or a terminal reject."""
    met: frozenset[str]
    """Every video that the recipe has met: a file may be new and its content not."""
    num_uncomposed: Counter[str]
    """By video_id: adapters that the video's largest composition lacks."""
    deleted: set[str]
    """Videos that were deleted and stay so."""
    elsewhere: dict[str, VideoFacts]
    """By video_id: what other recipes found out about videos that this one has not met."""

    def done_spans(self, video_id: str) -> set[Span]:
        """Return the spans of a video that need no more work."""
        if video_id not in self.done and video_id in self.met:
            found = self.lake.done_segments(self.recipe_id, [video_id], retried=self.retried)
            self.done[video_id] = found.get(video_id, set())
        return self.done.get(video_id, set())


def plan_segments(duration_us: int, rule: SegmentConfig) -> tuple[Segment, ...]:
    """Cut a video of this length into segments."""
    return tile(duration_us, segment_us=rule.segment_us, min_tail_us=rule.min_tail_us)


def look_up(lake: Lake, sources: Sequence[Source], *, recipe_id: str, run_id: str) -> Known:
    """Read what the catalog holds about `sources`, a shard of the run's plan.

    A whole video that `run_id` itself rejected stays rejected, even where another run may try
    it again: a repeated attempt must meet the same units. A run that retries takes no other run's
    word for a file that was rejected whole: neither the reject, nor what an older look had found.
    """
    retry = lake.get_plan(run_id).header.retry
    retried = None if retry is None else (run_id, retry.reasons)
    rejects = _whole_rejects(lake, sources, recipe_id)
    videos = lake.known_videos(sources, recipe_id)
    if retried is not None:
        again = {row["source_id"] for row in rejects if row["run_id"] != run_id}
        videos = _met_anew(lake, videos, again, recipe_id=recipe_id, run_id=run_id)
    video_ids = sorted({video.video_id for video in videos.values()})
    done = lake.done_segments(recipe_id, video_ids, retried=retried) if video_ids else {}
    return Known(
        lake=lake,
        recipe_id=recipe_id,
        retried=retried,
        videos=videos,
        rejected={
            row["source_id"]: row
            for row in _of_this_version(rejects, sources)
            if row["run_id"] == run_id or (row["is_terminal"] and retried is None)
        },
        done=done,
        met=_met(lake, recipe_id),
        num_uncomposed=_uncomposed(lake, recipe_id, video_ids),
        deleted=lake.deleted_videos(),
        elsewhere={} if retried is not None else _met_elsewhere(lake, videos.values()),
    )


def _whole_rejects(lake: Lake, sources: Sequence[Source], recipe_id: str) -> list[Row]:
    where = (pc.field("recipe_id") == recipe_id) & pc.field("adapter_key").is_null()
    where = where & pc.field("source_id").isin(_texts(source.source_id for source in sources))
    rows: list[Row] = lake.catalog.read("rejects", where=where).to_pylist()
    return rows


def _of_this_version(rejects: Sequence[Row], sources: Sequence[Source]) -> list[Row]:
    version = {source.source_id: (source.size_bytes, source.version_token) for source in sources}
    return [
        row
        for row in rejects
        if version[row["source_id"]] == (row["size_bytes"], row["version_token"])
    ]


def _met_anew(
    lake: Lake, videos: dict[str, KnownVideo], again: set[str], *, recipe_id: str, run_id: str
) -> dict[str, KnownVideo]:
    """Forget the lengths of the videos of `again` that this run has not met itself."""
    where = (pc.field("recipe_id") == recipe_id) & (pc.field("run_id") == run_id)
    rows = lake.catalog.read("videos", columns=("source_id",), where=where)
    forgotten = again - set(rows["source_id"].to_pylist())
    return {
        source_id: replace(video, duration_us=None) if source_id in forgotten else video
        for source_id, video in videos.items()
    }


def _met_elsewhere(lake: Lake, videos: Iterable[KnownVideo]) -> dict[str, VideoFacts]:
    unmet = {video.video_id for video in videos if video.duration_us is None}
    return video_facts(lake.catalog, unmet) if unmet else {}


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
    largest: Counter[str] = Counter()
    for row in composed:
        largest[row["video_id"]] = max(largest[row["video_id"]], row["num_segments"])
    return missing - largest
