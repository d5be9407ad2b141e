"""Ask the same questions in three ways: from the adapter, with the video in context, and blind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import ModelConfig
from tasks.known import plan_segments
from tasks.models import LoadedModel, pixel_spec
from video2lora_core.adapter import Adapter
from video2lora_core.answer import Answer, answer, answer_in_context
from video2lora_core.errors import VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode, probe
from video2lora_core.pixels import prepare
from video2lora_core.shapes_world import Question

CONDITIONS = ("adapter", "in context", "blind")


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedVideo:
    """All frames of a video, as the model is shown them in context."""

    pixels: np.ndarray
    """uint8 [frame, channel, height, width]."""
    times_us: tuple[int, ...]
    duration_us: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedQuestion:
    """A question and its answer under each condition."""

    question: Question
    answers: dict[str, Answer]

    def is_right(self, condition: str) -> bool:
        """Say whether the answer is the reference, letter case aside."""
        return self.answers[condition].text.strip().lower() == self.question.answer.lower()


def watch_video(path: Path, config: ModelConfig) -> WatchedVideo:
    """Decode a whole video at the model's rate of frames.

    Raises:
        VideoError: it cannot be decoded whole.
    """
    duration_us = probe(path).duration_us
    segments = plan_segments(duration_us, config.segments)
    spec = pixel_spec(config)
    found = decode(
        path,
        segments,
        num_frames=config.segments.num_frames,
        prepare=lambda frame: prepare(frame, spec),
    )
    frames = [_required(outcome) for outcome in found]
    return WatchedVideo(
        pixels=np.concatenate([part.pixels for part in frames]),
        times_us=tuple(time_us for part in frames for time_us in part.times_us),
        duration_us=duration_us,
    )


def compare_answers(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    adapter: Adapter,
    video: WatchedVideo,
    max_new_tokens: int = 32,
) -> list[ComparedQuestion]:
    """Answer each question by itself, so that the times of the conditions compare."""
    compared = []
    for question in questions:
        asked = [question.text]
        in_context = answer_in_context(
            model.vlm,
            video.pixels,
            video.times_us,
            asked,
            duration_us=video.duration_us,
            max_new_tokens=max_new_tokens,
        )
        from_adapter = answer(model.vlm, asked, adapters=adapter, max_new_tokens=max_new_tokens)
        blind = answer(model.vlm, asked, max_new_tokens=max_new_tokens)
        answers = dict(zip(CONDITIONS, [*from_adapter, *in_context, *blind], strict=True))
        compared.append(ComparedQuestion(question=question, answers=answers))
    return compared


def _required(outcome: SegmentFrames | SegmentReject) -> SegmentFrames:
    if isinstance(outcome, SegmentFrames):
        return outcome
    raise VideoError(outcome.reason, outcome.detail)
