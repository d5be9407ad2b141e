"""The rows of one unit, collected while its segments are done, in the catalog's columns.

What depends on an adapter being committed (segments, rejects) is a function of the adapter rows
that the unit really has: after a crash these are an earlier attempt's.
"""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from storage.commit import UnitRows
from storage.schemas import Row
from tasks.meet_video import MetVideo, Reject
from tasks.recipe import Recipe
from tasks.work_stream import Decoded, Slot
from video2lora_core.errors import Reason

CODE_VERSION = version("video2lora")
_UNCOMMITTED = Reject(
    reason=Reason.ADAPTER_MISSING, detail="an earlier attempt committed the unit without it"
)


def common_columns(recipe: Recipe, *, attempt_id: str) -> Row:
    """Return what every row of an attempt carries."""
    return {
        "recipe_id": recipe.recipe_id,
        "recipe": json.dumps(recipe.content, sort_keys=True),
        "attempt_id": attempt_id,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "code_version": CODE_VERSION,
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    """What stays of a segment when its frames are gone."""

    slot: Slot
    frames: Row
    """The columns that tell about its frames."""


class UnitDraft:
    """One unit while it is being done."""

    def __init__(self, unit: int, *, corpus_name: str) -> None:
        """Start with no rows."""
        self.unit = unit
        self.is_ended = False
        """Whether nothing more is numbered into it."""
        self.num_waiting = 0
        """Segments whose adapter is not stored and that have no reject either."""
        self._corpus_name = corpus_name
        self._met: list[MetVideo] = []
        self._segments: dict[str, _Segment] = {}
        self._adapters: dict[str, Row] = {}
        self._rejects: dict[str, Reject] = {}

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the unit is outstanding."""
        return self.is_ended and self.num_waiting == 0

    @property
    def num_rejects(self) -> int:
        """Rejects of whole videos and of segments."""
        return len(self._rejects) + sum(_is_new_reject(video) for video in self._met)

    def add_video(self, video: MetVideo) -> None:
        """Take a source that was met."""
        self._met.append(video)

    def add_adapter(self, decoded: Decoded, row: Row) -> None:
        """Take a segment's adapter row, to be finished when its file is stored."""
        self._segments[decoded.slot.adapter_key] = _without_pixels(decoded)
        self._adapters[decoded.slot.adapter_key] = row

    def add_reject(self, decoded: Decoded, reject: Reject) -> None:
        """Take a segment that could not be processed."""
        self._segments[decoded.slot.adapter_key] = _without_pixels(decoded)
        self._rejects[decoded.slot.adapter_key] = reject

    def rows(self) -> UnitRows:
        """Return the unit's rows, table by table."""
        new = [video for video in self._met if video.is_new]
        return {
            "adapters": list(self._adapters.values()),
            "sources": [self._source_row(video) for video in new if _is_news(video)],
            "videos": [_video_row(video) for video in new if video.probe is not None],
            "rejects": self._reject_rows,
            "segments": self._segment_rows,
        }

    def _reject_of(self, key: str, committed: set[str]) -> Reject | None:
        if key in committed:
            return None
        return self._rejects.get(key, _UNCOMMITTED)

    def _segment_rows(self, committed: Sequence[Row]) -> list[Row]:
        keys = {row["adapter_key"] for row in committed}
        return [
            _segment_row(segment, self._reject_of(key, keys))
            for key, segment in self._segments.items()
        ]

    def _reject_rows(self, committed: Sequence[Row]) -> list[Row]:
        keys = {row["adapter_key"] for row in committed}
        rows: list[Row] = [
            {**_source_columns(video), **_reject_columns(video.reject), "video_id": video.video_id}
            for video in self._met
            if video.reject is not None and video.is_new
        ]
        for key, segment in self._segments.items():
            reject = self._reject_of(key, keys)
            if reject is not None:
                source = _source_columns(segment.slot.video)
                rows.append(source | _reject_columns(reject) | span_columns(segment.slot))
        return rows

    def _source_row(self, video: MetVideo) -> Row:
        given = {"given_id": video.source.given_id, "metadata": video.source.metadata}
        corpus = video.source.corpus or self._corpus_name
        names = {"corpus": corpus, "video_id": video.video_id}
        return {**_source_columns(video), **given, **names}


def _is_news(video: MetVideo) -> bool:
    """Whether the catalog lacks what is at the URI, also that nothing readable is."""
    return video.is_read or video.video_id is None


def _is_new_reject(video: MetVideo) -> bool:
    return video.is_new and video.reject is not None


def _source_columns(video: MetVideo) -> dict[str, Any]:
    source = video.source
    return {
        "source_id": source.source_id,
        "uri": source.uri,
        "size_bytes": source.size_bytes,
        "version_token": source.version_token,
    }


def span_columns(slot: Slot) -> dict[str, Any]:
    """Return the columns that say which segment a row is about."""
    return {
        "adapter_key": slot.adapter_key,
        "video_id": slot.video_id,
        "start_us": slot.segment.start_us,
        "end_us": slot.segment.end_us,
    }


def _reject_columns(reject: Reject) -> dict[str, Any]:
    return {
        "reason": str(reject.reason),
        "detail": reject.detail,
        "is_terminal": reject.is_terminal,
    }


def _video_row(video: MetVideo) -> Row:
    assert video.probe is not None
    probe = asdict(video.probe)
    shown = ("width_px", "height_px", "fps", "codec", "container", "origin_us")
    return {
        **_source_columns(video),
        **{name: probe[name] for name in shown},
        "video_id": video.video_id,
        "duration_us": video.duration_us,
        "num_segments": len(video.segments),
        "given_id": video.source.given_id,
        "metadata": video.source.metadata,
    }


def _without_pixels(decoded: Decoded) -> _Segment:
    frames: Row = {}
    if not isinstance(decoded.outcome, Reject):
        frames = {
            "frame_times_us": list(decoded.outcome.times_us),
            "num_frames": len(decoded.outcome.times_us),
            "num_unique_frames": decoded.outcome.num_unique_frames,
            "num_corrupt_frames": decoded.outcome.num_corrupt_frames,
            "max_lag_us": decoded.outcome.max_lag_us,
            "flags": [str(flag) for flag in decoded.outcome.flags],
        }
    return _Segment(slot=decoded.slot, frames={**frames, "decode_s": decoded.decode_s})


def _segment_row(segment: _Segment, reject: Reject | None) -> Row:
    return {
        **span_columns(segment.slot),
        **segment.frames,
        "outcome": "adapter" if reject is None else "reject",
        "is_done": reject is None or reject.is_terminal,
        "reason": None if reject is None else str(reject.reason),
    }
