"""What may be asked in a training: every (span, prompt) that batches are drawn from.

The pool is a function of the config, the videos and the question set, so that the teacher can
answer all of it beforehand. Captions are put to spans drawn by the mixture of the config, questions
to the span that their set names, widened to whole tiles.
"""

import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from configs.train_corpus_schema import CorpusTrainConfig
from storage.identity import canonical_json, sha256_hex
from storage.lake import Lake
from tasks.question_files import read_questions
from tasks.question_set import SetQuestion
from tasks.training_videos import TrainVideo, resolve_video
from video2lora_core.errors import UsageError
from video2lora_core.segments import Segment, meeting
from video2lora_core.training.spans import SpanShares, draw_span

logger = logging.getLogger(__name__)

Kind = Literal["caption", "question"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolExample:
    """A prompt put to a span of a video."""

    kind: Kind
    video_id: str
    tiles: tuple[Segment, ...]
    """The span, as a run of the video's tiles."""
    prompt: str
    reference: str | None = None
    """The set's own answer."""

    @property
    def span(self) -> Segment:
        """Return the whole span."""
        return Segment(start_us=self.tiles[0].start_us, end_us=self.tiles[-1].end_us)

    def key(self, teacher_id: str) -> str:
        """Return the id of what a teacher is asked."""
        span = self.span
        asked = [teacher_id, self.video_id, span.start_us, span.end_us, self.prompt]
        return sha256_hex(canonical_json(asked).encode())


def training_pool(
    config: CorpusTrainConfig, videos: Sequence[TrainVideo], lake: Lake
) -> list[PoolExample]:
    """List all that may be asked, in a fixed order.

    Raises:
        UsageError: nothing can be asked about these videos.
    """
    pool = [*_captions(config, videos), *_questions(config, videos, lake)]
    if not pool:
        raise UsageError(
            f"train: no question of {config.questions} is about a video of {config.corpus}; check "
            "the set's column `video`"
        )
    return pool


def held_out_ids(videos: Sequence[TrainVideo], share: float) -> frozenset[str]:
    """Choose the held-out videos by the hash of their ids; at least one, and never all."""
    ranked = sorted(videos, key=lambda video: sha256_hex(f"held-out/{video.video_id}".encode()))
    count = min(max(1, round(share * len(videos))), len(videos) - 1)
    return frozenset(video.video_id for video in ranked[:count])


def _captions(config: CorpusTrainConfig, videos: Sequence[TrainVideo]) -> Iterator[PoolExample]:
    shares = SpanShares(
        scene=config.spans.scene,
        adjacent=config.spans.adjacent,
        full=config.spans.full,
        max_adjacent=config.spans.max_adjacent,
    )
    for video in videos if config.captions else ():
        rng = random.Random(f"{config.seed}/{video.video_id}/spans")
        for _ in range(config.spans.per_video):
            _, tiles = draw_span(rng, video.tiles, shares)
            prompt = rng.choice(config.captions)
            yield PoolExample(kind="caption", video_id=video.video_id, tiles=tiles, prompt=prompt)


def _questions(
    config: CorpusTrainConfig, videos: Sequence[TrainVideo], lake: Lake
) -> Iterator[PoolExample]:
    left_out: Counter[str] = Counter()
    for asked in read_questions(config.questions, lake) if config.questions else ():
        if not isinstance(asked, SetQuestion):
            left_out["not a question"] += 1
            continue
        video = resolve_video(asked.video, videos)
        tiles = None if video is None else _met_tiles(asked, video)
        if video is None or tiles is None:
            left_out["no such video or span"] += 1
            continue
        yield PoolExample(
            kind="question",
            video_id=video.video_id,
            tiles=tiles,
            prompt=asked.question,
            reference=asked.references[0] if asked.references else None,
        )
    if left_out:
        logger.warning("%s: rows left out: %s", config.questions, dict(left_out))


def _met_tiles(asked: SetQuestion, video: TrainVideo) -> tuple[Segment, ...] | None:
    end_us = video.tiles[-1].end_us if asked.end_us is None else asked.end_us
    try:
        return meeting(video.tiles, start_us=asked.start_us or 0, end_us=end_us)
    except UsageError:
        return None
