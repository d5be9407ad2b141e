"""Batches of a corpus: which example, cut how, in what company. A function of the batch's number.

What cannot be decoded is drawn again, and since a file always fails in the same way, a batch stays
a function of its number.
"""

import random
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from configs.train_corpus_schema import CorpusTrainConfig
from tasks.training_frames import FrameShelf
from tasks.training_pool import PoolExample
from tasks.training_videos import TrainVideo
from video2lora_core.errors import UsageError
from video2lora_core.frames import SegmentFrames
from video2lora_core.segments import Segment
from video2lora_core.training.corpus_stage import Example
from video2lora_core.training.spans import cut_span, draw_count

_MAX_DRAWS = 32

Place = tuple[str, Segment]
"""A segment of a video, by the video's id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """An example as a batch shows it."""

    example: PoolExample
    target: str | None
    pieces: tuple[Segment, ...]
    """The span asked about, cut."""
    distractors: tuple[Place, ...]
    """Segments of other videos or spans."""


class Sampler:
    """Draws examples; every draw is decided by the seed and by what it is for."""

    def __init__(
        self,
        config: CorpusTrainConfig,
        examples: Sequence[tuple[PoolExample, str | None]],
        videos: Sequence[TrainVideo],
    ) -> None:
        """Draw from `examples`, whose videos, and their distractors', are `videos`."""
        self._config, self._videos = config, list(videos)
        self._by_kind = {
            kind: [pair for pair in examples if pair[0].kind == kind]
            for kind in ("caption", "question")
        }

    def draw(self, name: str) -> Drawn:
        """Draw one example; the same name draws the same."""
        rng = random.Random(f"{self._config.seed}/{name}")
        captions, questions = self._by_kind["caption"], self._by_kind["question"]
        is_caption = not questions or rng.random() < self._config.caption_share
        example, target = rng.choice(captions if captions and is_caption else questions)
        shares = self._config.compose
        count = draw_count(rng, shares.pieces, limit=len(example.tiles))
        num_distractors = 0
        if example.kind == "question":
            num_distractors = draw_count(rng, shares.distractors, limit=max(shares.distractors))
        return Drawn(
            example=example,
            target=target,
            pieces=cut_span(example.tiles, count),
            distractors=self._distractors(rng, example, num_distractors),
        )

    def _distractors(
        self, rng: random.Random, example: PoolExample, count: int
    ) -> tuple[Place, ...]:
        """Draw different tiles outside the span; fewer where there are no others."""
        span, found = example.span, dict[Place, None]()
        for _ in range(_MAX_DRAWS * count):
            if len(found) == count:
                break
            video = rng.choice(self._videos)
            tile = rng.choice(video.tiles)
            is_apart = tile.end_us <= span.start_us or tile.start_us >= span.end_us
            if video.video_id != example.video_id or is_apart:
                found[video.video_id, tile] = None
        return tuple(found)


class BatchReader:
    """Makes batches, and the next ones meanwhile."""

    def __init__(
        self,
        sampler: Sampler,
        shelf: FrameShelf,
        videos: Mapping[str, TrainVideo],
        *,
        size: int,
        threads: int,
        stride: int = 1,
    ) -> None:
        """Make batches of `size` examples; a process is asked for every `stride`-th number."""
        self._sampler, self._shelf, self._videos, self._size = sampler, shelf, videos, size
        self._threads, self._stride = threads, stride
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batch")
        self._coming: dict[int, Future[list[Example]]] = {}

    def __call__(self, number: int) -> list[Example]:
        """Return batch `number`."""
        wanted = range(number, number + self._stride * (self._threads + 1), self._stride)
        self._coming = {
            n: self._coming.get(n) or self._pool.submit(self.make, f"{n}") for n in wanted
        }
        return self._coming.pop(number).result()

    def close(self) -> None:
        """Give up what is coming."""
        self._pool.shutdown(cancel_futures=True)

    def make(self, name: str) -> list[Example]:
        """Draw and decode a batch by its name.

        Raises:
            UsageError: nothing that was drawn can be decoded.
        """
        seen: dict[Place, SegmentFrames] = {}
        return [self._example(f"{name}/{slot}", seen) for slot in range(self._size)]

    def _example(self, name: str, seen: dict[Place, SegmentFrames]) -> Example:
        for attempt in range(_MAX_DRAWS):
            drawn = self._sampler.draw(f"{name}/{attempt}")
            asked = [(drawn.example.video_id, piece) for piece in drawn.pieces]
            places = [*asked, *drawn.distractors]
            if self._see(places, seen):
                return Example(
                    segments=tuple(seen[place] for place in places),
                    num_asked=len(asked),
                    question=drawn.example.prompt,
                    target=drawn.target,
                )
        raise UsageError(
            f"train: {_MAX_DRAWS} examples in a row cannot be decoded; look at the corpus with "
            "`video2lora internalize`, which names each fault"
        )

    def _see(self, places: Sequence[Place], seen: dict[Place, SegmentFrames]) -> bool:
        """Decode what a batch has not seen; say whether all of it is there."""
        by_video: dict[str, list[Segment]] = {}
        for video_id, segment in places:
            if (video_id, segment) not in seen:
                by_video.setdefault(video_id, []).append(segment)
        for video_id, segments in by_video.items():
            for segment, found in self._shelf.get(self._videos[video_id], segments).items():
                if isinstance(found, SegmentFrames):
                    seen[video_id, segment] = found
        return all(place in seen for place in places)
