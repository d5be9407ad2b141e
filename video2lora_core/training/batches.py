"""Training batches of the shapes world: worlds, frames, question blocks.

A batch is a function of (seed, step).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from video2lora_core.shapes_world import Question, World, ask_all, sample_world
from video2lora_core.shapes_world.render import draw, frame_fractions
from video2lora_core.shapes_world.world import SCENE_US
from video2lora_core.training.camera import film
from video2lora_core.training.rows import Block

NUM_FRAMES = 8
FRAME_PX = 48
MAX_LATENESS_US = 110_000  # the last frame shown at or before a moment is up to a frame old


@dataclass(frozen=True, kw_only=True, slots=True)
class Films:
    """Worlds and the frames of all their scenes, scene after scene."""

    worlds: tuple[World, ...]
    fractions: tuple[tuple[float, ...], ...]
    frames: UInt8[Tensor, "frame channel height width"]


def shoot(worlds: Sequence[World], *, seed: int) -> Films:
    """Draw the sampled frames of every scene, degraded as a camera and a codec would."""
    generator = torch.Generator().manual_seed(seed)
    scenes = [scene for world in worlds for scene in world.scenes]
    late = torch.rand(len(scenes), generator=generator) * (MAX_LATENESS_US / SCENE_US)
    centres = torch.tensor(frame_fractions(NUM_FRAMES))
    fractions = tuple(tuple(row) for row in (centres[None] - late[:, None]).tolist())
    clean = draw(scenes, fractions, width_px=FRAME_PX, height_px=FRAME_PX)
    frames = film(clean, frames_per_scene=NUM_FRAMES, generator=generator)
    return Films(worlds=tuple(worlds), fractions=fractions, frames=frames)


def training_worlds(
    *, seed: int, step: int, count: int, num_scenes: int, two_things: float
) -> list[World]:
    """Sample the videos of a step; seeds of different steps and stages do not meet."""
    first = (seed << 40) + step * 4096
    return [
        sample_world(first + index, num_scenes=num_scenes, two_things=two_things)
        for index in range(count)
    ]


class BlockWriter:
    """Turn questions into token blocks, remembering the ids of texts that come again and again."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    def ids(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, without anything added."""
        if text not in self._known:
            encoded = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(self._known) > 100_000:
                self._known.clear()
            self._known[text] = tuple(encoded)
        return self._known[text]

    def query(self, question: Question) -> Block:
        """Write a question without a video: the form an adapter is asked in."""
        prompt = f"<|im_start|>User: {question.text}<end_of_utterance>\nAssistant:"
        return Block(prompt_ids=self.ids(prompt), target_ids=self._target(question), is_blind=True)

    def in_context(self, question: Question) -> Block:
        """Write a question behind a video's frames."""
        prompt = f"{question.text}<end_of_utterance>\nAssistant:"
        return Block(prompt_ids=self.ids(prompt), target_ids=self._target(question))

    def video(self, num_scenes: int, *, image_tokens: int) -> tuple[int, ...]:
        """Return the ids of a video's frames: the start of an in-context prompt."""
        frame = "<image>" * image_tokens + "<fake_token_around_image>"
        return self.ids("<|im_start|>User:" + frame * (NUM_FRAMES * num_scenes))

    def _target(self, question: Question) -> tuple[int, ...]:
        return self.ids(f" {question.answer}<end_of_utterance>\n")


def choose_questions(
    world: World, *, count: int, seed: int, shares: dict[str, float]
) -> list[Question]:
    """Choose `count` questions by type with the given relative shares.

    A type of which the video has no question gives its share up.
    """
    rng = random.Random(f"{world.seed}/{seed}/choice")
    by_kind: dict[str, list[Question]] = {}
    for round_ in range(3):  # further rounds ask about other things in other words
        for question in ask_all(world, seed=seed * 3 + round_):
            by_kind.setdefault(question.kind, []).append(question)
    kinds = [kind for kind in shares if kind in by_kind]
    drawn = rng.choices(kinds, weights=[shares[kind] for kind in kinds], k=count)
    return [rng.choice(by_kind[kind]) for kind in drawn]
