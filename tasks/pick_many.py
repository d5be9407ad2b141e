"""The adapters of many videos at once: those of this model, and of these that meet a span.

The rules are those of `pick_adapters`; what it raises is a reject here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from storage.lake import Lake
from storage.schemas import Row
from tasks.meet_video import Reject
from tasks.recipe import ModelIdentity
from video2lora_core.errors import Reason

_COLUMNS = (
    "adapter_sha256",
    "adapter_key",
    "video_id",
    "recipe_id",
    "created_at",
    "start_us",
    "end_us",
    "rank",
    "frame_times_us",
    "size_bytes",
    "checkpoint_sha256",
    "model_weights_sha256",
    "is_random",
)
_HOW = "give --internalize-missing, or run `video2lora internalize` on its file"

Span = tuple[int | None, int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyAdapters:
    """Fitting adapters by video, and what each video is."""

    rows: Mapping[str, tuple[Row, ...]]
    """By video_id: one row per segment, in order of time, all of one recipe."""
    others: Mapping[str, str]
    """By video_id, of videos that have no fitting adapter: why those they have do not fit."""
    durations_us: Mapping[str, int]
    """By video_id."""

    def pick(self, video_id: str, span: Span) -> tuple[Row, ...] | Reject:
        """Return a video's adapters that meet a span, or why there are none."""
        rows = self.rows.get(video_id)
        if not rows:
            why = self.others.get(video_id, "it has no adapter")
            detail = f"video {video_id[:12]}: {why}; {_HOW}"
            return Reject(reason=Reason.ADAPTER_MISSING, detail=detail)
        outside = self.outside(video_id, span)
        if outside is not None:
            return outside
        start_us, end_us = span[0] or 0, span[1]
        met = tuple(
            row
            for row in rows
            if row["end_us"] > start_us and (end_us is None or row["start_us"] < end_us)
        )
        if met:
            return met
        detail = f"video {video_id[:12]}: the segments of this span were rejected; {_HOW}"
        return Reject(reason=Reason.ADAPTER_MISSING, detail=detail)

    def outside(self, video_id: str, span: Span) -> Reject | None:
        """Return a reject where a span does not lie in the video."""
        start_us, end_us = span
        duration_us = self.durations_us.get(video_id)
        if duration_us is None or span == (None, None):
            return None
        if (start_us or 0) < duration_us and (end_us is None or end_us <= duration_us):
            return None
        shown_end = duration_us if end_us is None else end_us
        detail = (
            f"video {video_id[:12]}: {(start_us or 0) / 1e6:g} s to {shown_end / 1e6:g} s is "
            f"outside it (it lasts {duration_us / 1e6:g} s)"
        )
        return Reject(reason=Reason.SPAN_OUTSIDE, detail=detail)


def pick_many(
    lake: Lake,
    video_ids: Collection[str],
    *,
    model: ModelIdentity,
    allow_random: bool = False,
    is_adapter_mode: bool = True,
) -> ManyAdapters:
    """Find the adapters of videos that fit a model, with one look at the catalog."""
    wanted = pc.field("video_id").isin(pa.array(sorted(set(video_ids)), pa.string()))
    facts = lake.catalog.read("videos", columns=("video_id", "duration_us"), where=wanted)
    longest = facts.group_by("video_id").aggregate([("duration_us", "max")])
    durations = dict(
        zip(longest["video_id"].to_pylist(), longest["duration_us_max"].to_pylist(), strict=True)
    )
    found: dict[str, list[Row]] = {}
    if is_adapter_mode:
        for row in lake.catalog.read("adapters", columns=_COLUMNS, where=wanted).to_pylist():
            found.setdefault(row["video_id"], []).append(row)
    fitting: dict[str, tuple[Row, ...]] = {}
    others: dict[str, str] = {}
    for video_id, rows in found.items():
        fit = [row for row in rows if _why_not(row, model, allow_random=allow_random) is None]
        if fit:
            fitting[video_id] = _of_last_recipe(fit)
        else:
            others[video_id] = _why_not(rows[0], model, allow_random=allow_random) or ""
    return ManyAdapters(rows=fitting, others=others, durations_us=durations)


def _why_not(row: Row, model: ModelIdentity, *, allow_random: bool) -> str | None:
    if row["is_random"] and not allow_random:
        return "its adapters were made with random weights, they know nothing (--allow-random)"
    for what, column, expected in (
        ("checkpoint", "checkpoint_sha256", model.checkpoint_sha256),
        ("model weights", "model_weights_sha256", model.weights_sha256),
    ):
        if row[column] != expected:
            return (
                f"its adapters were made with another {what} (found {row[column][:12]}, the "
                f"configured model has {expected[:12]})"
            )
    return None


def _of_last_recipe(rows: Sequence[Row]) -> tuple[Row, ...]:
    recipe_id = max(rows, key=lambda row: row["created_at"])["recipe_id"]
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r["start_us"], r["adapter_sha256"])):
        if row["recipe_id"] == recipe_id:
            best.setdefault(row["adapter_key"], row)
    return tuple(best.values())
