"""The videos of an evaluation with their questions, and what a model sees and makes of a video.

The comparison of modes goes through the lake. What is varied beside it (frames, resolution,
ranks, segments) makes adapters that nobody wants to keep: they are made here, in memory, from the
same files, and go through their stored bytes as the lake's own do.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from configs.schema import ModelConfig
from storage.errors import VideoUnknownError
from storage.lake import Lake
from storage.manifest import Source
from tasks.known import plan_segments
from tasks.models import LoadedModel, pixel_spec
from tasks.question_set import SetQuestion
from tasks.source_file import SourceFile
from video2lora_core.adapter import Adapter, adapter_bytes, adapter_from_bytes
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode
from video2lora_core.internalize import internalize
from video2lora_core.pixels import prepare
from video2lora_core.segments import Segment, meeting

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluatedVideo:
    """A video of the lake and what is asked about it."""

    video_id: str
    source: Source
    duration_us: int
    num_segments: int
    questions: tuple[SetQuestion, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Watched:
    """What a model was shown of a video, and the adapters that it made of it."""

    video: EvaluatedVideo
    frames: tuple[SegmentFrames, ...]
    adapters: tuple[Adapter, ...]
    """One per segment, as stored: without the bias, in bfloat16."""
    decode_s: float
    internalize_s: float

    def positions(self, question: SetQuestion) -> tuple[int, ...]:
        """Return which segments a question is about: all, or those that its span meets."""
        segments = [part.segment for part in self.frames]
        if question.start_us is None and question.end_us is None:
            return tuple(range(len(segments)))
        end_us = self.video.duration_us if question.end_us is None else question.end_us
        met = meeting(segments, start_us=question.start_us or 0, end_us=end_us)
        return tuple(segments.index(segment) for segment in met)

    def pixels(self, positions: Sequence[int]) -> np.ndarray:
        """Return the frames [frame, channel, height, width] of some segments."""
        return np.concatenate([self.frames[place].pixels for place in positions])

    def times_us(self, positions: Sequence[int]) -> list[int]:
        """Return the times of those frames."""
        return [time_us for place in positions for time_us in self.frames[place].times_us]


def evaluated_videos(
    lake: Lake, questions: Iterable[SetQuestion], *, recipe_id: str
) -> list[EvaluatedVideo]:
    """Find the videos that are asked about, in the order of their first question.

    A question of a video that the lake does not hold under the recipe is left out.
    """
    rows = lake.catalog.read("videos", where=pc.field("recipe_id") == recipe_id).to_pylist()
    known = {row["video_id"]: row for row in rows}
    names: dict[str, str | None] = {}
    asked: dict[str, list[SetQuestion]] = {}
    for question in questions:
        if question.video not in names:
            names[question.video] = _resolved(lake, question.video)
        video_id = names[question.video]
        if video_id in known:
            asked.setdefault(str(video_id), []).append(question)
    return [
        EvaluatedVideo(
            video_id=video_id,
            source=_source(known[video_id]),
            duration_us=known[video_id]["duration_us"],
            num_segments=known[video_id]["num_segments"],
            questions=tuple(listed),
        )
        for video_id, listed in asked.items()
    ]


def watch(
    video: EvaluatedVideo,
    model: LoadedModel,
    config: ModelConfig,
    *,
    segments: Sequence[Segment] | None = None,
) -> Watched:
    """Decode and internalize a video under a model config, whatever recipe the lake has.

    Args:
        video: the video.
        model: loaded; the config's pixels, cut and number of frames may differ from its own.
        config: decides the frames.
        segments: how the video is cut, in place of the config's rule.

    Raises:
        VideoError: it cannot be decoded whole.
    """
    frames, decode_s = decoded(video, config, segments=segments)
    started = time.perf_counter()
    made: list[Adapter] = []
    for start in range(0, len(frames), config.batch_segments):
        batch = frames[start : start + config.batch_segments]
        sha256 = model.checkpoint.sha256
        made += internalize(model.vlm, model.hypernetwork, batch, checkpoint_sha256=sha256)
    internalize_s = time.perf_counter() - started
    return Watched(
        video=video,
        frames=frames,
        adapters=tuple(adapter_from_bytes(adapter_bytes(adapter)) for adapter in made),
        decode_s=decode_s,
        internalize_s=internalize_s,
    )


def decoded(
    video: EvaluatedVideo, config: ModelConfig, *, segments: Sequence[Segment] | None = None
) -> tuple[tuple[SegmentFrames, ...], float]:
    """Decode a video's segments; return them and the seconds that it took.

    Raises:
        VideoError: one of them cannot be used.
    """
    plan = segments or plan_segments(video.duration_us, config.segments)
    frame = functools.partial(prepare, spec=pixel_spec(config))
    with SourceFile(video.source) as file:
        path = file.path()
        started = time.perf_counter()
        found = decode(path, plan, num_frames=config.segments.num_frames, prepare=frame)
        frames = tuple(_required(outcome) for outcome in found)
        return frames, time.perf_counter() - started


def watchable(
    videos: Iterable[EvaluatedVideo], see: Callable[[EvaluatedVideo], Watched]
) -> Iterator[Watched]:
    """Watch videos one after the other; one that cannot be used is left out, and logged."""
    for video in videos:
        try:
            yield see(video)
        except VideoError as error:
            logger.warning("video %s: left out of a measurement: %s", video.video_id[:12], error)


def _required(outcome: SegmentFrames | SegmentReject) -> SegmentFrames:
    if isinstance(outcome, SegmentReject):
        raise VideoError(Reason(outcome.reason), outcome.detail)
    return outcome


def _resolved(lake: Lake, name: str) -> str | None:
    try:
        return lake.resolve_video(name)
    except VideoUnknownError as error:
        logger.warning("%s", error)
        return None


def _source(row: dict[str, object]) -> Source:
    return Source(
        uri=str(row["uri"]),
        size_bytes=row["size_bytes"],  # type: ignore[arg-type]  # a row's values have no types
        version_token=row["version_token"],  # type: ignore[arg-type]
    )
