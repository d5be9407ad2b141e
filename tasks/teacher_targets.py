"""Ask the teacher: the frozen model's own greedy answers, kept in the lake and never made twice.

What decides an answer is hashed into the teacher's id and each example's key: the model's weights
and files, frames and tokens, the video, the span, the prompt. Examples are written in units, each
one file that is created once: a kill costs at most the unit in work, and what another training
asked before is not asked again. A span that cannot be shown is a row with its reason.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from configs.load import load_model_config
from configs.train_corpus_schema import CorpusTrainConfig
from storage.identity import canonical_json, sha256_hex
from storage.lake import Lake, open_lake
from storage.teacher_store import Said, put_unit, read_said, unit_id
from tasks.models import load_frozen
from tasks.progress import report
from tasks.training_frames import Found, FrameShelf
from tasks.training_pool import PoolExample, training_pool
from tasks.training_videos import TrainVideo, training_videos
from video2lora_core.answer import answer_in_context
from video2lora_core.errors import VideoError
from video2lora_core.segments import Segment
from video2lora_core.training.corpus_stage import plain_target
from video2lora_core.vlm import Vlm

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeachSummary:
    """What one shard's teacher did."""

    teacher_id: str
    num_examples: int = 0
    """Different examples of the shard."""
    num_asked: int = 0
    """Asked now; the others were answered before."""
    num_rejects: int = 0
    """Of those, spans that cannot be shown."""


def teacher_id(vlm: Vlm, config: CorpusTrainConfig) -> str:
    """Return the id of everything but the example that decides what a teacher says."""
    content = {
        "weights": vlm.weights_sha256,
        "tokenizer": vlm.tokenizer_sha256,
        "processor": vlm.processor_sha256,
        "dtype": str(vlm.dtype),
        "num_frames": config.teacher.num_frames,
        "max_new_tokens": config.teacher.max_new_tokens,
    }
    return sha256_hex(canonical_json(content).encode())


def needs_teacher(config: CorpusTrainConfig, example: PoolExample) -> bool:
    """Say whether an example's target is the teacher's."""
    return config.targets == "teacher" or (
        config.targets == "reference" and example.reference is None
    )


def teach(config: CorpusTrainConfig, *, shard: int = 0) -> TeachSummary:
    """Answer every example of a shard that has no answer yet."""
    torch.set_num_threads(config.threads)
    lake = open_lake(config.lake, create=True)
    videos = training_videos(config, lake)
    own = {v.video_id: v for v in videos if shard_of(v, config) == shard}
    pool = [e for e in training_pool(config, videos, lake) if needs_teacher(config, e)]
    vlm = load_frozen(load_model_config(config.model))
    teacher = _Teacher(config, vlm, lake, own)
    return teacher.answer_all([e for e in pool if e.video_id in own])


def shard_of(video: TrainVideo, config: CorpusTrainConfig) -> int:
    """Return a video's shard: a function of its id, so that growth moves no other video."""
    return int(video.video_id[:8], 16) % config.teacher.shards


class _Teacher:
    """One shard's teacher."""

    def __init__(
        self, config: CorpusTrainConfig, vlm: Vlm, lake: Lake, videos: dict[str, TrainVideo]
    ) -> None:
        self.config, self.vlm, self.lake, self.videos = config, vlm, lake, videos
        self.id = teacher_id(vlm, config)
        self.shelf = FrameShelf(
            load_model_config(config.model), num_frames=config.teacher.num_frames, cache_bytes=0
        )

    def answer_all(self, examples: Sequence[PoolExample]) -> TeachSummary:
        said = read_said(self.lake.objects, self.id)
        by_key = {example.key(self.id): example for example in examples}
        # A video's examples stand together, so that a unit opens few files.
        keys = sorted(by_key, key=lambda key: (by_key[key].video_id, by_key[key].span, key))
        num_asked = num_rejects = 0
        size = self.config.teacher.unit_examples
        for start in range(0, len(keys), size):
            unit = keys[start : start + size]
            missing = {key: by_key[key] for key in unit if key not in said}
            if not missing:
                continue
            rows = self._answer_unit(missing)
            if put_unit(self.lake.objects, self.id, unit_id(unit), rows):
                num_asked += len(rows)
                num_rejects += sum(row["text"] is None for row in rows)
            report("segments", len(rows))
        logger.info("teacher %s: %d of %d examples asked", self.id[:12], num_asked, len(keys))
        return TeachSummary(
            teacher_id=self.id,
            num_examples=len(keys),
            num_asked=num_asked,
            num_rejects=num_rejects,
        )

    def _answer_unit(self, missing: dict[str, PoolExample]) -> list[dict[str, object]]:
        by_video: dict[str, dict[Segment, list[str]]] = {}
        for key, example in missing.items():
            by_video.setdefault(example.video_id, {}).setdefault(example.span, []).append(key)
        rows: list[dict[str, object]] = []
        for video_id, by_span in by_video.items():
            found = self.shelf.get(self.videos[video_id], list(by_span))
            for span, keys in by_span.items():
                rows += self._answer_span(found[span], {key: missing[key] for key in keys})
        return rows

    def _answer_span(
        self, shown: Found, examples: dict[str, PoolExample]
    ) -> list[dict[str, object]]:
        if isinstance(shown, VideoError):
            reason = str(shown.reason)
            return [_row(k, e, text=None, num=None, reason=reason) for k, e in examples.items()]
        span = shown.segment
        answers = answer_in_context(
            self.vlm,
            shown.pixels,
            [time - span.start_us for time in shown.times_us],
            [example.prompt for example in examples.values()],
            duration_us=span.duration_us,
            max_new_tokens=self.config.teacher.max_new_tokens,
        )
        return [
            _row(key, e, text=plain_target(a.text, self.vlm), num=a.num_new_tokens, reason=None)
            for (key, e), a in zip(examples.items(), answers, strict=True)
        ]


def _row(
    key: str, example: PoolExample, *, text: str | None, num: int | None, reason: str | None
) -> dict[str, object]:
    span = example.span
    return {
        "key": key,
        "video_id": example.video_id,
        "start_us": span.start_us,
        "end_us": span.end_us,
        "prompt": example.prompt,
        "text": text,
        "num_new_tokens": num,
        "reason": reason,
        "created_at": datetime.now(UTC),
    }


def targets_of(
    config: CorpusTrainConfig, pool: Sequence[PoolExample], said: dict[str, Said], teacher: str
) -> tuple[list[tuple[PoolExample, str | None]], int]:
    """Pair examples with their targets; return how many have none yet beside them.

    A span that the teacher could not be shown is left out. Under `targets: online` every target is
    None: the teacher is asked when the example is.
    """
    paired: list[tuple[PoolExample, str | None]] = []
    num_missing = 0
    for example in pool:
        if config.targets == "online":
            paired.append((example, None))
        elif not needs_teacher(config, example):
            paired.append((example, example.reference))
        elif (known := said.get(example.key(teacher))) is None:
            num_missing += 1
        elif known.text is not None:
            paired.append((example, known.text))
    return paired, num_missing
