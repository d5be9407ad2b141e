"""Questions to answers with the video's frames in the prompt: what adapters are compared with.

The frames are decoded again, by the rules and within the limits of internalization, as often as
memory makes necessary. `in-context` shows them with every batch; `in-context-kv-cache` lets the
model read them once and keeps its keys and values.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from configs.answer_schema import AnswerConfig
from configs.schema import ModelConfig
from storage.lake import Lake
from storage.manifest import Source
from storage.schemas import Row
from tasks.answer_batches import (
    Outcome,
    Outcomes,
    answer_columns,
    batches,
    halving,
    num_prompt_tokens,
)
from tasks.byte_cache import ByteCache
from tasks.decoding_child import DecodingChild, InProcessReader, VideoReader
from tasks.known import plan_segments
from tasks.meet_video import Reject
from tasks.models import LoadedModel
from tasks.source_file import SourceFile
from video2lora_core.answer import (
    Answer,
    VideoPrefix,
    answer_from_prefix,
    answer_in_context,
    read_video,
)
from video2lora_core.errors import PromptError, Reason, VideoError
from video2lora_core.frames import SegmentFrames
from video2lora_core.segments import Segment
from video2lora_core.vlm import in_context_ids

Span = tuple[int | None, int | None]
Shown = tuple[str, tuple[Segment, ...]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frames:
    """The frames of some segments of a video."""

    pixels: np.ndarray
    """[frame, channel, height, width], uint8."""
    times_us: tuple[int, ...]
    duration_us: int


class FrameReader:
    """Decodes the segments that a question is about; one video at a time."""

    def __init__(self, lake: Lake, model: ModelConfig, config: AnswerConfig) -> None:
        """Read the videos of `lake` as `model` sees them."""
        self._lake = lake
        self._model = model
        reader = InProcessReader if config.decode.workers == 0 else DecodingChild
        self._reader: VideoReader = reader(
            model=model, decoder=config.decoder, limits=config.decode
        )
        self._videos: dict[str, Row] = {}

    def expect(self, video_ids: Sequence[str]) -> None:
        """Look up where videos are: one look for all."""
        wanted = sorted({video_id for video_id in video_ids if video_id not in self._videos})
        columns = (
            "video_id",
            "created_at",
            "uri",
            "size_bytes",
            "version_token",
            "duration_us",
        )
        where = pc.field("video_id").isin(pa.array(wanted, pa.string()))
        rows = self._lake.catalog.read("videos", columns=columns, where=where).to_pylist()
        for row in sorted(rows, key=lambda row: row["created_at"]):
            self._videos[row["video_id"]] = row

    def segments(self, video_id: str, span: Span) -> tuple[Segment, ...]:
        """Return the segments of a video that meet a span."""
        planned = plan_segments(self._videos[video_id]["duration_us"], self._model.segments)
        start_us, end_us = span[0] or 0, span[1]
        return tuple(
            segment
            for segment in planned
            if segment.end_us > start_us and (end_us is None or segment.start_us < end_us)
        )

    def frames(self, shown: Shown) -> Frames:
        """Decode segments.

        Raises:
            VideoError: the file, or one of the segments, cannot be used.
        """
        row = self._videos[shown[0]]
        source = Source(
            uri=row["uri"], size_bytes=row["size_bytes"], version_token=row["version_token"]
        )
        with SourceFile(source) as file:
            found = [self._usable(item) for item in self._reader.decode(file.path(), shown[1])]
        return Frames(
            pixels=np.concatenate([frames.pixels for frames in found]),
            times_us=tuple(time_us for frames in found for time_us in frames.times_us),
            duration_us=row["duration_us"],
        )

    def close(self) -> None:
        """End the decoding child."""
        self._reader.close()

    @staticmethod
    def _usable(item: Any) -> SegmentFrames:
        if isinstance(item, SegmentFrames):
            return item
        raise VideoError(item.reason, item.detail)


class ContextAnswerer:
    """Asks the model with the frames in the prompt."""

    def __init__(self, model: LoadedModel, config: AnswerConfig, *, reader: FrameReader) -> None:
        """Ask `model` about what `reader` decodes."""
        self._model = model
        self._config = config
        self._reader = reader
        self._frames: ByteCache[Shown, Frames] = ByteCache(config.cache_bytes)
        self._prefixes: ByteCache[Shown, VideoPrefix] = ByteCache(config.cache_bytes)

    def answer(self, rows: Sequence[Row]) -> Outcomes:
        """Return the outcome of every question."""
        self._reader.expect([row["video_id"] for row in rows])
        groups: dict[Shown, list[Row]] = {}
        for row in rows:
            span = (row["start_us"], row["end_us"])
            shown = (row["video_id"], self._reader.segments(row["video_id"], span))
            groups.setdefault(shown, []).append(row)
        outcomes: dict[str, Outcome] = {}
        for shown, group in groups.items():
            outcomes |= self._group(shown, group)
        return outcomes

    def _group(self, shown: Shown, rows: Sequence[Row]) -> Outcomes:
        started = time.perf_counter()
        try:
            frames = self._seen(shown)
        except VideoError as error:
            reject = Reject(reason=error.reason, detail=error.detail)
            return {row["question_id"]: reject for row in rows}
        load_s = time.perf_counter() - started
        outcomes: dict[str, Outcome] = {}
        asked: list[tuple[int, str, Row]] = []
        for row in rows:
            length = self._prompt_length(frames, row)
            if isinstance(length, Reject):
                outcomes[row["question_id"]] = length
            else:
                asked.append((length, row["question_id"], row))
        if not asked:
            return outcomes
        asked.sort(key=lambda one: one[:2])
        prepared = self._asking(shown, frames)
        if isinstance(prepared, Reject):
            return outcomes | {question_id: prepared for _, question_id, _ in asked}
        ask, read_s = prepared
        for batch in batches(asked, self._config.batch_questions):
            given = halving(ask, batch, device=self._model.vlm.device)
            for (_, question_id, _), one in zip(batch, given, strict=True):
                outcomes[question_id] = (
                    one
                    if isinstance(one, Reject)
                    else answer_columns(
                        one,
                        load_s=load_s / len(asked),
                        compose_s=read_s / len(asked),
                        answer_s=one.answer_s / len(batch),
                        num_frames=len(frames.times_us),
                        num_segments=len(shown[1]),
                    )
                )
        return outcomes

    def _seen(self, shown: Shown) -> Frames:
        frames = self._frames.get(shown)
        if frames is None:
            frames = self._reader.frames(shown)
            self._frames.put(shown, frames, frames.pixels.nbytes)
        return frames

    def _prompt_length(self, frames: Frames, row: Row) -> int | Reject:
        return num_prompt_tokens(
            self._model.vlm,
            lambda: in_context_ids(
                self._model.vlm, frames.times_us, frames.duration_us, row["question"]
            ),
            max_new_tokens=self._config.max_new_tokens,
        )

    def _asking(
        self, shown: Shown, frames: Frames
    ) -> tuple[Callable[[Sequence[tuple[int, str, Row]]], Sequence[Answer]], float] | Reject:
        """Return how a batch about these frames is asked, and how long preparing it took."""
        vlm, limit = self._model.vlm, self._config.max_new_tokens
        if self._config.mode == "in-context":
            return (
                lambda batch: answer_in_context(
                    vlm,
                    frames.pixels,
                    frames.times_us,
                    [row["question"] for *_, row in batch],
                    duration_us=frames.duration_us,
                    max_new_tokens=limit,
                ),
                0.0,
            )
        started = time.perf_counter()
        prefix = self._prefix(shown, frames)
        if isinstance(prefix, Reject):
            return prefix
        return (
            lambda batch: answer_from_prefix(
                vlm, prefix, [row["question"] for *_, row in batch], max_new_tokens=limit
            ),
            time.perf_counter() - started,
        )

    def _prefix(self, shown: Shown, frames: Frames) -> VideoPrefix | Reject:
        prefix = self._prefixes.get(shown)
        if prefix is None:
            try:
                prefix = read_video(
                    self._model.vlm,
                    frames.pixels,
                    frames.times_us,
                    duration_us=frames.duration_us,
                )
            except PromptError as error:
                return Reject(reason=Reason.PROMPT_TOO_LONG, detail=str(error))
            except torch.OutOfMemoryError:
                detail = f"the frames of one video do not fit {self._model.vlm.device}"
                return Reject(reason=Reason.DEVICE_OOM, detail=detail)
            self._prefixes.put(shown, prefix, prefix.size_bytes)
        return prefix
