"""The exam of the embedded default: real mp4 files of unseen seeds, every question in every mode.

Everything is the product's own path: H.264 files are written, decoded and resized, segments are
internalized, adapters go through their stored bytes (bfloat16), answers are decoded greedily and
compared as text.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from configs.schema import ModelConfig
from tasks.models import LoadedModel, pixel_spec
from video2lora_core.adapter import Adapter, adapter_bytes, adapter_from_bytes
from video2lora_core.answer import answer, answer_in_context
from video2lora_core.compose import concat, svd, with_bias
from video2lora_core.frames import SegmentFrames, decode, probe
from video2lora_core.internalize import internalize
from video2lora_core.pixels import prepare
from video2lora_core.segments import tile
from video2lora_core.shapes_world import Question, World, ask_all, sample_world
from video2lora_core.shapes_world.questions import MANY_SCENES_TYPES
from video2lora_core.shapes_world.video_files import write_mp4
from video2lora_core.shapes_world.world import HELD_OUT_PAIRS, SEEN_PAIRS

FIRST_SEED = 900_000_000_000_000  # training seeds stay below 2^46
ROWS_PER_BATCH = 128
REDUCED_RANK = 16
VIDEOS_PER_GROUP = 32  # videos whose frames and adapters are held at once
MAX_NEW_TOKENS = 24

COMPOSED_MODES = ("in context", "adapter", "another video's adapter", "blind")
ALL_MODES = (*COMPOSED_MODES, f"rank {REDUCED_RANK}", "right segment alone")


@dataclass(frozen=True, kw_only=True, slots=True)
class Paper:
    """One part of the exam: so many videos of so many segments."""

    name: str
    num_segments: int
    num_videos: int
    two_things: float = 0.5
    pairs: tuple[tuple[str, str], ...] = SEEN_PAIRS
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One answer, judged."""

    paper: str
    mode: str
    kind: str
    video: int
    expected: str
    is_right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamVideo:
    """A video of the exam before any hypernetwork saw it."""

    world: World
    segments: tuple[SegmentFrames, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A video of the exam: what it shows, its decoded segments, their adapters, its questions."""

    world: World
    segments: tuple[SegmentFrames, ...]
    adapters: tuple[Adapter, ...]
    questions: tuple[Question, ...]


def papers(*, num_videos: int, num_composed: int) -> list[Paper]:
    """List the parts of the exam: single segments, unseen pairs, compositions of 1 to 8."""
    single = [
        Paper(name="one segment", num_segments=1, num_videos=num_videos),
        Paper(
            name="unseen pairs",
            num_segments=1,
            num_videos=num_videos // 2,
            pairs=HELD_OUT_PAIRS,
            seed=1,
        ),
    ]
    composed = [
        Paper(
            name=f"{count} segments, {what}",
            num_segments=count,
            num_videos=num_composed,
            two_things=share,
            seed=10 * count + offset,
        )
        for offset, (what, share) in enumerate((("one thing each", 0.0), ("mixed", 0.5)))
        for count in (1, 2, 4, 8)
    ]
    return single + composed


def sit(
    paper: Paper,
    model: LoadedModel,
    config: ModelConfig,
    *,
    on_group: Callable[[int], None] = lambda _: None,
) -> Iterator[Mark]:
    """Yield the marks of one paper; `on_group(num_videos)` is called after each group of videos."""
    modes = COMPOSED_MODES if paper.num_segments == 1 else ALL_MODES
    for start in range(0, paper.num_videos, VIDEOS_PER_GROUP):
        numbers = range(start, min(start + VIDEOS_PER_GROUP, paper.num_videos))
        candidates = [candidate_of(exam_video(paper, n, config), model) for n in numbers]
        for mode in modes:
            yield from marks_of(paper, mode, start, candidates, model)
        on_group(len(candidates))


def exam_video(paper: Paper, number: int, config: ModelConfig) -> ExamVideo:
    """Render and decode one video of a paper, and say what is asked about it."""
    world, questions = exam_world(paper, number)
    segments = decoded_segments(world, config, seed=number)
    return ExamVideo(world=world, segments=segments, questions=questions)


def exam_world(paper: Paper, number: int) -> tuple[World, tuple[Question, ...]]:
    """Say what one video of a paper shows, and what is asked about it; nothing is rendered."""
    seed = FIRST_SEED + paper.seed * 1_000_000 + number
    world = sample_world(
        seed, num_scenes=paper.num_segments, two_things=paper.two_things, pairs=paper.pairs
    )
    questions = ask_all(world, seed=0, pairs=paper.pairs)
    if paper.seed >= 10:  # a composition paper of one segment asks what the longer ones ask
        questions = [q for q in questions if q.kind in MANY_SCENES_TYPES]
    return world, tuple(questions)


def candidate_of(video: ExamVideo, model: LoadedModel) -> Candidate:
    """Internalize a video's segments; adapters go through their stored bytes."""
    made = internalize(
        model.vlm, model.hypernetwork, video.segments, checkpoint_sha256=model.checkpoint.sha256
    )
    return Candidate(
        world=video.world,
        segments=video.segments,
        adapters=tuple(adapter_from_bytes(adapter_bytes(adapter)) for adapter in made),
        questions=video.questions,
    )


def decoded_segments(
    world: World, config: ModelConfig, *, seed: int, sampling: str = "centres"
) -> tuple[SegmentFrames, ...]:
    """Write a world as an mp4 file, decode it again and return its segments' frames."""
    cut = config.segments
    with tempfile.TemporaryDirectory() as directory:
        path = write_mp4(world, Path(directory) / "video.mp4", seed=seed)
        plan = tile(probe(path).duration_us, segment_us=cut.segment_us, min_tail_us=cut.min_tail_us)
        frame = functools.partial(prepare, spec=pixel_spec(config))
        items = list(
            decode(path, plan, num_frames=cut.num_frames, prepare=frame, sampling=sampling)
        )
    segments = tuple(item for item in items if isinstance(item, SegmentFrames))
    if len(segments) != len(world.scenes):
        raise RuntimeError(
            f"exam: {len(segments)} segments decoded of {len(world.scenes)} scenes written; "
            "segment_s must equal the length of a scene"
        )
    return segments


def marks_of(
    paper: Paper, mode: str, start: int, candidates: Sequence[Candidate], model: LoadedModel
) -> Iterator[Mark]:
    """Yield the marks of some candidates in one mode; the first is video `start` of its paper."""
    said = (
        _in_context(candidates, model)
        if mode == "in context"
        else _from_adapters(mode, candidates, model)
    )
    asked = [(n, q) for n, candidate in enumerate(candidates) for q in candidate.questions]
    for (number, question), text in zip(asked, said, strict=True):
        yield Mark(
            paper=paper.name,
            mode=mode,
            kind=question.kind,
            video=start + number,
            expected=question.answer,
            is_right=text.strip() == question.answer,
        )


def _in_context(candidates: Sequence[Candidate], model: LoadedModel) -> list[str]:
    said = []
    for candidate in candidates:
        answers = answer_in_context(
            model.vlm,
            np.concatenate([segment.pixels for segment in candidate.segments]),
            [time for segment in candidate.segments for time in segment.times_us],
            [question.text for question in candidate.questions],
            duration_us=candidate.world.duration_us,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        said += [given.text for given in answers]
    return said


def _from_adapters(mode: str, candidates: Sequence[Candidate], model: LoadedModel) -> list[str]:
    rows: list[tuple[str, Adapter | None]] = []
    for number, candidate in enumerate(candidates):
        other = candidates[(number + 1) % len(candidates)]
        adapters = _adapters(mode, candidate, other, model)
        rows += [(q.text, a) for q, a in zip(candidate.questions, adapters, strict=True)]
    said = []
    for start in range(0, len(rows), ROWS_PER_BATCH):
        texts, injected = zip(*rows[start : start + ROWS_PER_BATCH], strict=True)
        present = [adapter for adapter in injected if adapter is not None]
        answers = answer(model.vlm, texts, adapters=present or None, max_new_tokens=MAX_NEW_TOKENS)
        said += [given.text for given in answers]
    return said


def _adapters(
    mode: str, candidate: Candidate, other: Candidate, model: LoadedModel
) -> list[Adapter | None]:
    """Return what is injected for each question of a video."""
    num_questions = len(candidate.questions)
    if mode == "blind":
        return [None] * num_questions
    if mode == "right segment alone":
        chosen = [candidate.adapters[q.scene or 0] for q in candidate.questions]
        return [with_bias(adapter, model.bias()) for adapter in chosen]
    source = other if mode == "another video's adapter" else candidate
    composition = concat(source.adapters)
    if mode.startswith("rank"):
        composition, _ = svd(composition, rank=REDUCED_RANK)
    return [with_bias(composition, model.bias())] * num_questions
