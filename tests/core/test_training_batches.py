"""Training batches: functions of seed and step, filmed as a camera would, asked by shares."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.shapes_world import SCENE_US, sample_world
from video2lora_core.shapes_world.render import draw, frame_fractions
from video2lora_core.shapes_world.tokenizer import build_tokenizer
from video2lora_core.training import batches
from video2lora_core.training.batches import (
    BlockWriter,
    choose_questions,
    shoot,
    training_worlds,
)
from video2lora_core.training.camera import NOISE_SIGMA, _subsample_chroma, film


def test_a_batch_is_decided_by_seed_and_step() -> None:
    def batch(seed: int, step: int) -> torch.Tensor:
        worlds = training_worlds(seed=seed, step=step, count=2, num_scenes=2, two_things=0.5)
        return shoot(worlds, seed=step).frames

    first = batch(3, 5)
    assert first.shape == (2 * 2 * 8, 3, 48, 48)
    assert torch.equal(first, batch(3, 5))
    assert not torch.equal(first, batch(3, 6))
    assert not torch.equal(first, batch(4, 5))


@given(st.integers(1, 30), st.integers(0, 10_000), st.integers(1, 30), st.integers(0, 10_000))
def test_steps_and_stages_never_show_the_same_video(
    seed: int, step: int, other_seed: int, other_step: int
) -> None:
    here, there = (
        {
            world.seed
            for world in training_worlds(seed=s, step=at, count=3, num_scenes=1, two_things=0.0)
        }
        for s, at in ((seed, step), (other_seed, other_step))
    )
    assert len(here) == 3
    assert not here & there or (seed, step) == (other_seed, other_step)


def test_frames_are_taken_near_the_centres_of_eighths_and_never_later() -> None:
    films = shoot([sample_world(k, num_scenes=4) for k in range(5)], seed=1)
    assert len(films.fractions) == 20
    late = torch.tensor(frame_fractions(8)) - torch.tensor(films.fractions)
    assert (late >= -1e-6).all()
    assert late.max() * SCENE_US < batches.MAX_LATENESS_US
    assert torch.allclose(late, late[:, :1].expand(-1, 8), atol=1e-6)  # one lateness per scene
    assert late.std() > 0


def test_filmed_frames_are_the_drawn_ones_within_noise_and_softness() -> None:
    worlds = [sample_world(k, num_scenes=8) for k in range(6)]
    films = shoot(worlds, seed=2)
    scenes = [scene for world in worlds for scene in world.scenes]
    clean = draw(scenes, films.fractions, width_px=48, height_px=48).float()
    error = (films.frames.float() - clean).unflatten(0, (-1, 8)).flatten(1)
    strength = error.std(1)
    assert strength.max() < 1.9 * NOISE_SIGMA
    assert strength.min() < 3.0
    assert error.mean(1).abs().max() < 4.0  # dark pictures lose noise below zero


def test_subsampled_chroma_keeps_the_brightness_of_every_pixel() -> None:
    scene = sample_world(1, num_scenes=1).scenes[0]
    pixels = draw([scene], [[0.4]], width_px=48, height_px=48).float()
    coarse = _subsample_chroma(pixels)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    luma = (coarse * weights).sum(1)
    assert torch.allclose(luma, (pixels * weights).sum(1), atol=0.1)
    # Blue less brightness is one of the two planes that lose their resolution.
    blue_difference = (coarse[:, 2] - luma).unflatten(1, (24, 2)).unflatten(3, (24, 2))
    assert blue_difference.amax((2, 4)).sub(blue_difference.amin((2, 4))).max() < 0.1
    assert _subsample_chroma(pixels[:0]).shape == (0, 3, 48, 48)


def test_the_camera_is_decided_by_its_generator() -> None:
    frames = torch.full((16, 3, 48, 48), 128, dtype=torch.uint8)
    one, two = (
        film(frames, frames_per_scene=8, generator=torch.Generator().manual_seed(7)) for _ in "ab"
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, frames)


def test_questions_come_in_their_shares_and_missing_types_give_theirs_up() -> None:
    world = sample_world(1, num_scenes=1, two_things=1.0)
    shares = {"motion": 3.0, "count": 1.0, "order": 0.0}
    drawn = Counter(q.kind for q in choose_questions(world, count=2000, seed=0, shares=shares))
    assert set(drawn) == {"motion", "count"}
    assert drawn["motion"] / 2000 == pytest.approx(0.75, abs=0.05)
    alone = sample_world(1, num_scenes=1, two_things=0.0)  # one thing has no order
    drawn = Counter(
        q.kind
        for q in choose_questions(alone, count=50, seed=0, shares={"order": 9.0, "count": 1.0})
    )
    assert drawn == {"count": 50}


def test_chosen_questions_are_the_same_again_and_others_for_another_seed() -> None:
    world = sample_world(5, num_scenes=4)
    shares = {"motion": 1.0, "colour": 1.0, "exist": 1.0}
    chosen = [choose_questions(world, count=9, seed=seed, shares=shares) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_the_writer_remembers_texts_without_growing_forever() -> None:
    writer = BlockWriter(build_tokenizer())
    once = writer.ids("red ball")
    assert writer.ids("red ball") is once
    writer._known.update({str(number): () for number in range(100_001)})
    assert writer.ids("blue bar") == writer.ids("blue bar")
    assert len(writer._known) == 1
