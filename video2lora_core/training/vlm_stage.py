"""Stages 0 and 1: the embedded VLM learns to see, then to answer with the video in context.

Stage 0 trains the vision tower alone to say what each frame shows. Stage 1 trains everything to
answer packed questions about videos of 1 to 8 scenes. Three helpers exist in training only:
* the frame read-out of stage 0 goes on;
* how each shape moves is read from the decoder's hidden states behind a scene's last frame;
* at the token that opens an answer, two heads of the last two blocks are pulled towards the scene
  that is asked about (without this, motion in videos of several scenes stays at chance).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from video2lora_core.shapes_world import Question
from video2lora_core.shapes_world.render import is_visible, position
from video2lora_core.shapes_world.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    WORLD_SIZE,
    Scene,
)
from video2lora_core.training.batches import (
    BlockWriter,
    Films,
    choose_questions,
    shoot,
    training_worlds,
)
from video2lora_core.training.embedded_vlm import (
    IMAGE_TOKENS,
    Trace,
    TrainingHeads,
    embed,
    label_logits,
    last_frame_columns,
    run_decoder,
    scene_columns,
    visual_tokens,
)
from video2lora_core.training.loop import StepResult
from video2lora_core.training.rows import PackedRows, answer_loss, pack

GUIDED_BLOCKS, GUIDED_HEADS = (2, 3), 2
MOTION_BLOCKS = (2, 3)  # motion is read from the inputs of these blocks
SCENE_SHARES = {1: 0.30, 2: 0.36, 3: 0.12, 4: 0.14, 8: 0.08}
ROWS = {1: 24, 2: 14, 3: 9, 4: 7, 8: 4}
BLIND_SHARE = 0.08
ONE_SCENE_SHARES = {
    "count": 0.08, "background": 0.12, "colour": 0.13, "shape": 0.13,
    "motion": 0.25, "order": 0.10, "exist": 0.10, "caption": 0.09,
}  # fmt: skip
MANY_SCENES_SHARES = {"colour": 0.15, "shape": 0.15, "motion": 0.45, "exist": 0.25}


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTargets:
    """What frames show: colour 0 is an absent shape; places are shares of the picture."""

    colour: Int[Tensor, "frame shape"]
    place: Float[Tensor, "frame shape 2"]
    background: Int[Tensor, " frame"]


class VlmStage:
    """The step functions of stages 0 and 1 over one model."""

    def __init__(
        self,
        model: SmolVLMForConditionalGeneration,
        heads: TrainingHeads,
        tokenizer: PreTrainedTokenizerFast,
        *,
        seed: int,
        frame_weight: float = 0.5,
        motion_weight: float = 0.5,
        guidance_weight: float = 0.5,
    ) -> None:
        self.model, self.heads, self.seed = model, heads, seed
        self.writer = BlockWriter(tokenizer)
        self.frame_weight = frame_weight
        self.motion_weight = motion_weight
        self.guidance_weight = guidance_weight

    def see(self, step: int) -> StepResult:
        """Stage 0: what does each frame show?"""
        worlds = training_worlds(seed=self.seed, step=step, count=30, num_scenes=1, two_things=0.6)
        films = shoot(worlds, seed=step)
        loss, right = self._frame_loss(visual_tokens(self.model, films.frames), films)
        return StepResult(loss=loss, metrics={"frame_colour_right": right})

    def answer(self, step: int) -> StepResult:
        """Stage 1: answer questions with the video in context."""
        num_scenes = self._num_scenes(step)
        worlds = training_worlds(
            seed=self.seed + 1, step=step, count=ROWS[num_scenes], num_scenes=num_scenes,
            two_things=0.5,
        )  # fmt: skip
        films = shoot(worlds, seed=step)
        shares = ONE_SCENE_SHARES if num_scenes == 1 else MANY_SCENES_SHARES
        chosen = [
            choose_questions(world, count=9, seed=step, shares=shares) for world in films.worlds
        ]
        rows = self._pack(chosen, num_scenes=num_scenes, step=step)
        visual = visual_tokens(self.model, films.frames)
        trace = run_decoder(self.model, embed(self.model, rows.ids, visual.flatten(0, 1)), rows)
        loss, right = answer_loss(label_logits(self.model, trace, rows), rows)
        frame_loss, _ = self._frame_loss(visual, films)
        motion_loss = self._motion_loss(trace, films, num_scenes)
        guidance = self._guidance_loss(trace, rows, chosen, num_scenes)
        total = (
            loss
            + self.frame_weight * frame_loss
            + self.motion_weight * motion_loss
            + self.guidance_weight * guidance
        )
        metrics = {
            "answer_loss": loss.item(), "frame_loss": frame_loss.item(),
            f"guidance_{num_scenes}": guidance.item(), "motion_loss": motion_loss.item(),
        }  # fmt: skip
        return StepResult(
            loss=total, metrics={**metrics, **right_by_kind(chosen, right, num_scenes)}
        )

    def _num_scenes(self, step: int) -> int:
        rng = random.Random(f"{self.seed}/{step}/scenes")
        return rng.choices(list(SCENE_SHARES), weights=list(SCENE_SHARES.values()))[0]

    def _pack(
        self, chosen: Sequence[Sequence[Question]], *, num_scenes: int, step: int
    ) -> PackedRows:
        rng = random.Random(f"{self.seed}/{step}/blind")
        blocks = [
            [
                self.writer.query(q) if rng.random() < BLIND_SHARE else self.writer.in_context(q)
                for q in questions
            ]
            for questions in chosen
        ]
        prefix = self.writer.video(num_scenes, image_tokens=IMAGE_TOKENS)
        return pack(blocks, prefix_ids=prefix, pad_id=0)

    def _frame_loss(self, visual: Tensor, films: Films) -> tuple[Tensor, float]:
        targets = frame_targets(films)
        colour, place, background = self.heads.frame_outputs(visual)
        loss = F.cross_entropy(colour.flatten(0, 1), targets.colour.flatten())
        loss = loss + 0.3 * F.cross_entropy(background, targets.background)
        shown = targets.colour > 0
        loss = loss + 5.0 * F.mse_loss(place[shown], targets.place[shown])
        right = (colour.argmax(-1) == targets.colour)[shown].float().mean().item()
        return loss, right

    def _motion_loss(self, trace: Trace, films: Films, num_scenes: int) -> Tensor:
        scenes = [scene for world in films.worlds for scene in world.scenes]
        target = torch.zeros(len(scenes), len(SHAPES), dtype=torch.long)
        for row, scene in enumerate(scenes):
            for thing in scene.things:
                target[row, SHAPES.index(thing.shape)] = MOTIONS.index(thing.motion) + 1
        columns = last_frame_columns(num_scenes)
        loss = torch.zeros(())
        for depth, block in enumerate(MOTION_BLOCKS):
            tokens = trace.block_inputs[block][:, columns].flatten(0, 1)  # [scene, token, d_model]
            logits = self.heads.motion_logits(depth, tokens)
            loss = loss + F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return loss

    def _guidance_loss(
        self,
        trace: Trace,
        rows: PackedRows,
        chosen: Sequence[Sequence[Question]],
        num_scenes: int,
    ) -> Tensor:
        """Return -log of the attention that answer-opening tokens pay to the scene asked about."""
        flat = [question for questions in chosen for question in questions]
        positions = rows.positions[rows.block_row, rows.answer_column]
        sighted = positions >= scene_columns(num_scenes)[-1, -1]
        asked = torch.tensor([-1 if q.scene is None else q.scene for q in flat])
        blocks = ((asked >= 0) & sighted).nonzero()[:, 0]
        if num_scenes == 1 or not len(blocks):
            return torch.zeros(())
        columns = scene_columns(num_scenes)[asked[blocks]]  # [block, token]
        loss = torch.zeros(())
        for index in GUIDED_BLOCKS:
            attention = self._attention(trace, rows, index, blocks)  # [block, head, token]
            picked = attention.gather(2, columns[:, None].expand(-1, GUIDED_HEADS, -1))
            loss = loss - picked.sum(-1).clamp_min(1e-6).log().mean()
        return loss / len(GUIDED_BLOCKS)

    def _attention(self, trace: Trace, rows: PackedRows, index: int, blocks: Tensor) -> Tensor:
        """Recompute the guided heads' attention from the blocks' answer-opening tokens."""
        layer = self.model.model.text_model.layers[index]
        size = layer.self_attn.head_dim
        normed = layer.input_layernorm(trace.block_inputs[index])
        row, column = rows.block_row[blocks], rows.answer_column[blocks]
        width = GUIDED_HEADS * size
        key = F.linear(normed, layer.self_attn.k_proj.weight[:width])
        query = F.linear(normed[row, column], layer.self_attn.q_proj.weight[:width])
        key = key.unflatten(-1, (GUIDED_HEADS, size)).transpose(1, 2)  # [row, head, token, size]
        query = query.unflatten(-1, (GUIDED_HEADS, size))[:, :, None]  # [block, head, 1, size]
        cosine, sine = trace.cosine, trace.sine
        key, _ = apply_rotary_pos_emb(key, key, cosine, sine)
        query, _ = apply_rotary_pos_emb(
            query, query, cosine[row, column][:, None], sine[row, column][:, None]
        )
        scores = (query @ key[row].transpose(2, 3))[:, :, 0] / math.sqrt(size)
        hidden = ~rows.mask[row, 0, column]
        attention: Tensor = scores.masked_fill(hidden[:, None], -math.inf).softmax(-1)
        return attention


def frame_targets(films: Films) -> FrameTargets:
    """Describe every frame of `films`; a thing that is not visible counts as absent."""
    scenes = [scene for world in films.worlds for scene in world.scenes]
    moments = [(scene, f) for scene, row in zip(scenes, films.fractions, strict=True) for f in row]
    colour = torch.zeros(len(moments), len(SHAPES), dtype=torch.long)
    place = torch.zeros(len(moments), len(SHAPES), 2)
    for index, (scene, fraction) in enumerate(moments):
        _describe(scene, fraction, colour[index], place[index])
    background = torch.tensor([BACKGROUNDS.index(scene.background) for scene, _ in moments])
    return FrameTargets(colour=colour, place=place, background=background)


def _describe(scene: Scene, fraction: float, colour: Tensor, place: Tensor) -> None:
    for thing in scene.things:
        if is_visible(thing, fraction):
            shape = SHAPES.index(thing.shape)
            colour[shape] = COLOURS.index(thing.colour) + 1
            place[shape] = torch.tensor(position(thing, fraction)) / WORLD_SIZE


def right_by_kind(
    chosen: Sequence[Sequence[Question]], right: Tensor, num_scenes: int
) -> dict[str, float]:
    """Average exact match by question type, named `right_<scenes>_<type>`."""
    flat = [question.kind for questions in chosen for question in questions]
    values: dict[str, list[bool]] = {}
    for kind, is_right in zip(flat, right.tolist(), strict=True):
        values.setdefault(kind, []).append(is_right)
    return {f"right_{num_scenes}_{kind}": sum(hits) / len(hits) for kind, hits in values.items()}
