"""The exam: its papers, its modes, and that every mark is the product's own answer, judged."""

from collections import Counter

import pytest
import torch

from configs.load import load_model_config
from configs.schema import ModelConfig
from tasks import exam
from tasks.exam import (
    ALL_MODES,
    COMPOSED_MODES,
    MAX_NEW_TOKENS,
    Candidate,
    Mark,
    Paper,
    decoded_segments,
    papers,
    sit,
)
from tasks.models import LoadedModel, load_model
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.answer import answer
from video2lora_core.compose import concat, with_bias
from video2lora_core.shapes_world import Question, World, ask_all, sample_world
from video2lora_core.shapes_world.render import draw, frame_fractions
from video2lora_core.shapes_world.world import HELD_OUT_PAIRS

TWO_SEGMENTS = Paper(name="two", num_segments=2, num_videos=2, seed=20)


@pytest.fixture(scope="module")
def config(model: str) -> ModelConfig:
    return load_model_config(model)


@pytest.fixture(scope="module")
def loaded(config: ModelConfig) -> LoadedModel:
    return load_model(config)


@pytest.fixture(scope="module")
def marks(loaded: LoadedModel, config: ModelConfig) -> list[Mark]:
    return list(sit(TWO_SEGMENTS, loaded, config))


def world_of(paper: Paper, number: int) -> World:
    seed = exam.FIRST_SEED + paper.seed * 1_000_000 + number
    return sample_world(
        seed, num_scenes=paper.num_segments, two_things=paper.two_things, pairs=paper.pairs
    )


def test_the_papers_go_from_one_segment_over_unseen_pairs_to_eight_composed() -> None:
    listed = papers(num_videos=10, num_composed=3)
    assert [(p.num_segments, p.num_videos) for p in listed[:2]] == [(1, 10), (1, 5)]
    assert listed[1].pairs == HELD_OUT_PAIRS
    assert [p.num_segments for p in listed[2:]] == [1, 2, 4, 8] * 2
    assert {p.num_videos for p in listed[2:]} == {3}
    assert len({p.name for p in listed}) == len({p.seed for p in listed}) == len(listed)


def test_every_question_of_every_video_is_marked_once_in_every_mode(marks: list[Mark]) -> None:
    asked = [ask_all(world_of(TWO_SEGMENTS, number), seed=0) for number in range(2)]
    expected = Counter(
        (mode, number, question.kind, question.answer)
        for mode in ALL_MODES
        for number, questions in enumerate(asked)
        for question in questions
    )
    assert Counter((m.mode, m.video, m.kind, m.expected) for m in marks) == expected
    assert {mark.paper for mark in marks} == {"two"}


def test_a_single_segment_is_neither_reduced_nor_picked(
    loaded: LoadedModel, config: ModelConfig
) -> None:
    groups: list[int] = []
    paper = Paper(name="one", num_segments=1, num_videos=2, seed=10)
    found = list(sit(paper, loaded, config, on_group=groups.append))
    assert {mark.mode for mark in found} == set(COMPOSED_MODES)
    # Beside longer ones it is asked what can be asked of them.
    assert {mark.kind for mark in found} <= {"colour", "shape", "motion", "exist"}
    assert groups == [2]


def test_a_paper_of_single_segments_asks_everything(
    loaded: LoadedModel, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exam, "VIDEOS_PER_GROUP", 1)
    groups: list[int] = []
    paper = Paper(name="one", num_segments=1, num_videos=2, pairs=HELD_OUT_PAIRS, two_things=1.0)
    found = list(sit(paper, loaded, config, on_group=groups.append))
    assert {"caption", "count", "background", "order"} <= {mark.kind for mark in found}
    assert groups == [1, 1]
    assert {mark.video for mark in found} == {0, 1}


def test_a_mark_is_right_when_the_answer_is_the_expected_text(
    marks: list[Mark], loaded: LoadedModel
) -> None:
    said = [
        given.text.strip() == question.answer
        for number in range(2)
        for questions in [ask_all(world_of(TWO_SEGMENTS, number), seed=0)]
        for question, given in zip(
            questions,
            answer(loaded.vlm, [q.text for q in questions], max_new_tokens=MAX_NEW_TOKENS),
            strict=True,
        )
    ]
    assert [mark.is_right for mark in marks if mark.mode == "blind"] == said


def constant_adapter(loaded: LoadedModel, value: float) -> Adapter:
    """An adapter of the loaded model's shape whose every factor has one value."""
    factors = {
        name: Factors(a=torch.full_like(f.a, value), b=torch.full_like(f.b, value))
        for name, f in loaded.bias().items()
    }
    config = loaded.hypernetwork.config
    return Adapter(
        factors=factors,
        layers=config.layers,
        scaling=config.scaling,
        checkpoint_sha256=loaded.checkpoint.sha256,
    )


def candidate(loaded: LoadedModel, *values: float) -> Candidate:
    """Questions about each segment, and one that names no scene."""
    scenes: list[int | None] = [*range(len(values)), None]
    questions = [Question(kind="motion", text="?", answer="up", scene=scene) for scene in scenes]
    return Candidate(
        world=sample_world(0, num_scenes=len(values)),
        segments=(),
        adapters=tuple(constant_adapter(loaded, value) for value in values),
        questions=tuple(questions),
    )


def assert_same(found: Adapter | None, expected: Adapter) -> None:
    assert found is not None
    assert found.has_bias
    for name, factors in expected.factors.items():
        assert torch.equal(found.factors[name].a, factors.a)
        assert torch.equal(found.factors[name].b, factors.b)


def test_each_mode_injects_what_its_name_says(loaded: LoadedModel) -> None:
    asked, other = candidate(loaded, 1.0, 2.0, 3.0), candidate(loaded, 7.0, 8.0)
    bias = loaded.bias()
    assert exam._adapters("blind", asked, other, loaded) == [None] * 4
    for adapter in exam._adapters("adapter", asked, other, loaded):
        assert_same(adapter, with_bias(concat(asked.adapters), bias))
    for adapter in exam._adapters("another video's adapter", asked, other, loaded):
        assert_same(adapter, with_bias(concat(other.adapters), bias))
    alone = exam._adapters("right segment alone", asked, other, loaded)
    for adapter, segment in zip(alone, (0, 1, 2, 0), strict=True):
        assert_same(adapter, with_bias(asked.adapters[segment], bias))


def test_the_reduced_mode_reduces_to_its_rank(loaded: LoadedModel) -> None:
    many = candidate(loaded, *[float(value) for value in range(1, 12)])
    (reduced, *_) = exam._adapters(ALL_MODES[4], many, many, loaded)
    assert reduced is not None
    bias_rank = next(iter(loaded.bias().values())).a.shape[-2]
    assert concat(many.adapters).rank > exam.REDUCED_RANK
    assert reduced.rank == exam.REDUCED_RANK + bias_rank


def test_the_exam_sees_the_frames_of_the_mp4_file(config: ModelConfig) -> None:
    world = sample_world(3, num_scenes=2)
    segments = decoded_segments(world, config, seed=1)
    size_px = config.pixels.size_px
    fractions = [frame_fractions(config.segments.num_frames)] * 2
    drawn = draw(world.scenes, fractions, width_px=size_px, height_px=size_px).float()
    seen = torch.cat([torch.tensor(segment.pixels) for segment in segments]).float()
    assert seen.shape == drawn.shape
    for one, other in zip(seen, drawn, strict=True):
        assert (one - other).abs().mean() < 12  # grain, coding, and a frame up to 1/8 s old


def test_segments_that_are_not_scenes_are_refused(config: ModelConfig) -> None:
    cut = config.segments.model_copy(update={"segment_s": 2.0, "min_tail_s": 1.0})
    wrong = config.model_copy(update={"segments": cut})
    with pytest.raises(RuntimeError, match="exam: 4 segments decoded of 2 scenes written; segment"):
        decoded_segments(sample_world(3, num_scenes=2), wrong, seed=1)
