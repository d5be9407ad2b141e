"""What steps return: ids, counts and seconds, small enough for any orchestrator to record."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanSummary:
    """What a run has to do."""

    run_id: str
    """sha256 of the plan: the same for every attempt."""
    recipe_id: str
    """What the adapters of this run are made by."""
    num_sources: int
    """Videos listed in the corpus."""
    num_done: int
    """Of these, how many the lake holds already, whole, under this recipe."""
    num_shards: int
    """Shards to run; 0 when nothing is left to do."""
    seconds: float
    """Wall time of planning, the loading of the model included."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSummary:
    """What was done in one shard, or in several added up."""

    num_videos: int = 0
    """Sources gone through."""
    num_files_read: int = 0
    """Files whose bytes were hashed, because the lake did not know them."""
    num_files_decoded: int = 0
    """Files a decoder was opened on."""
    num_segments: int = 0
    """Segments internalized in this attempt: model work."""
    num_segments_recalled: int = 0
    """Segments whose visual tokens were there: neither decoded nor looked at."""
    num_rejects: int = 0
    """Rejects written in this attempt."""
    num_units: int = 0
    """Units committed in this attempt."""
    num_planned_units: int = 0
    """Units of the plan, whoever committed them."""
    num_compositions: int = 0
    """Compositions written in this attempt."""
    num_model_loads: int = 0
    """How often the model was loaded: once, or never where there was nothing for it."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy time per kind of work, threads added up: load (the model), fetch (copies of remote
    files), read (hash and probe), recall (kept visual tokens), decode, device, store, commit,
    compose; and wait, the time that the device was without frames."""
    wall_s: float = 0.0
    """Wall time of the steps."""

    def __add__(self, other: Self) -> "ShardSummary":
        """Add the counts and the seconds of two summaries."""
        seconds = Counter(self.seconds)
        seconds.update(other.seconds)
        return ShardSummary(
            num_videos=self.num_videos + other.num_videos,
            num_files_read=self.num_files_read + other.num_files_read,
            num_files_decoded=self.num_files_decoded + other.num_files_decoded,
            num_segments=self.num_segments + other.num_segments,
            num_segments_recalled=self.num_segments_recalled + other.num_segments_recalled,
            num_rejects=self.num_rejects + other.num_rejects,
            num_units=self.num_units + other.num_units,
            num_planned_units=self.num_planned_units + other.num_planned_units,
            num_compositions=self.num_compositions + other.num_compositions,
            num_model_loads=self.num_model_loads + other.num_model_loads,
            seconds=dict(seconds),
            wall_s=self.wall_s + other.wall_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishSummary:
    """What publishing found."""

    is_first: bool
    """Whether this attempt, and no other, marked the run as published."""
    catalog: str | None
    """The file with the catalog's views; None for a lake that is not a local directory."""
    seconds: float
    """Wall time."""
    num_adapters: int = 0
    """Adapters that the run made, in every attempt."""
    num_rejects: int = 0
    """Rejects of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """One attempt at a run, from plan to publishing."""

    plan: PlanSummary
    shards: ShardSummary
    published: PublishSummary
    engine: str
    """Which engine ran the steps."""
