"""Stage 2: the hypernetwork learns to write adapters, alone and in company; the VLM is frozen.

A step takes groups of 8 segments, internalizes each once, composes random subsets of a group (the
plain sum of updates, the bias once) and lets the frozen VLM answer questions about a subset from
the composition alone. An ownership loss, in training only, asks that at the token which opens an
answer the update of the segment that is asked about is the strongest of the composition.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, SmolVLMForConditionalGeneration

from video2lora_core.adapter import Factors
from video2lora_core.compose import batch_from_factors
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.inject import adapted
from video2lora_core.shapes_world import Question, World
from video2lora_core.training.batches import (
    BlockWriter,
    Films,
    choose_questions,
    shoot,
    training_worlds,
)
from video2lora_core.training.embedded_vlm import (
    IMAGE_TOKENS,
    embed,
    label_logits,
    run_decoder,
    visual_tokens,
)
from video2lora_core.training.loop import StepResult
from video2lora_core.training.readout import SegmentReadout, read_embeddings, segment_targets
from video2lora_core.training.rows import Block, PackedRows, answer_loss, pack
from video2lora_core.training.vlm_stage import right_by_kind

GROUP_SIZE = 8
SUBSET_SHARES = {1: 0.28, 2: 0.20, 3: 0.12, 4: 0.16, 6: 0.08, 8: 0.16}
ONE_SEGMENT_SHARES = {
    "count": 0.06, "background": 0.14, "colour": 0.08, "shape": 0.08,
    "motion": 0.28, "order": 0.16, "exist": 0.08, "caption": 0.12,
}  # fmt: skip
MANY_SEGMENTS_SHARES = {"colour": 0.12, "shape": 0.12, "motion": 0.50, "exist": 0.26}


@dataclass(frozen=True, kw_only=True, slots=True)
class Subset:
    """Segments composed for one row, by their places in the batch, and questions about them."""

    segments: tuple[int, ...]
    questions: tuple[Question, ...]


class HypernetworkStage:
    """The step function of stage 2."""

    def __init__(
        self,
        model: SmolVLMForConditionalGeneration,
        hypernetwork: Hypernetwork,
        tokenizer: PreTrainedTokenizerFast,
        *,
        internalization_prompt: str,
        seed: int,
        groups: int = 6,
        rows_per_group: int = 4,
        questions_per_row: int = 9,
        solo_steps: int = 0,
        ownership_weight: float = 0.25,
        readout: SegmentReadout | None = None,
        readout_weight: float = 0.5,
    ) -> None:
        self.model, self.hypernetwork, self.seed = model.requires_grad_(False), hypernetwork, seed
        self.writer = BlockWriter(tokenizer)
        self.prompt = internalization_prompt
        self.groups, self.rows_per_group = groups, rows_per_group
        self.questions_per_row = questions_per_row
        self.solo_steps = solo_steps
        self.ownership_weight = ownership_weight
        self.readout, self.readout_weight = readout, readout_weight

    def step(self, step: int) -> StepResult:
        """Internalize, compose subsets, answer from the compositions."""
        worlds = training_worlds(
            seed=self.seed, step=step, count=self.groups, num_scenes=GROUP_SIZE, two_things=0.5
        )
        films = shoot(worlds, seed=step)
        subsets = self._subsets(worlds, step)
        with read_embeddings(self.hypernetwork) as embeddings:
            factors = self.hypernetwork(self.features(films))
        batch = batch_from_factors(
            factors,
            groups=[subset.segments for subset in subsets],
            bias=self.hypernetwork.bias_factors(),
            layers=self.hypernetwork.config.layers,
            scaling=self.hypernetwork.config.scaling,
        )
        blocks = [[self.writer.query(q) for q in subset.questions] for subset in subsets]
        rows = pack(blocks, pad_id=0)
        layers = self.hypernetwork.config.layers
        with adapted(self.model, batch), read_down_proj(self.model, layers) as inputs:
            trace = run_decoder(self.model, embed(self.model, rows.ids, None), rows)
        loss, right = answer_loss(label_logits(self.model, trace, rows), rows)
        ownership = self._ownership_loss(inputs, factors["down_proj"], rows, subsets)
        knows = self._readout_loss(embeddings[0], films)
        metrics = {
            "answer_loss": loss.item(),
            "ownership": ownership.item(),
            "readout": knows.item(),
        }
        return StepResult(
            loss=loss + self.ownership_weight * ownership + self.readout_weight * knows,
            metrics={**metrics, **_right_by_size(subsets, right)},
        )

    @torch.no_grad()
    def features(self, films: Films) -> Float[Tensor, "segment layer token d_model"]:
        """Return the inputs of the covered decoder blocks; every scene is a segment."""
        visual = visual_tokens(self.model, films.frames)
        num_segments = sum(len(world.scenes) for world in films.worlds)
        prefix = self.writer.video(1, image_tokens=IMAGE_TOKENS)
        text = self.writer.ids(f"{self.prompt}<end_of_utterance>\n")
        block = Block(prompt_ids=text[:-1], target_ids=text[-1:])
        rows = pack([[block]] * num_segments, prefix_ids=prefix, pad_id=0)
        trace = run_decoder(self.model, embed(self.model, rows.ids, visual.flatten(0, 1)), rows)
        return torch.stack([trace.block_inputs[k] for k in self.hypernetwork.config.layers], 1)

    def _subsets(self, worlds: Sequence[World], step: int) -> list[Subset]:
        rng = random.Random(f"{self.seed}/{step}/subsets")
        subsets = []
        for index, world in enumerate(worlds):
            for row, picked in enumerate(self._pick(rng, step)):
                part = World(seed=world.seed, scenes=tuple(world.scenes[k] for k in picked))
                kinds = ONE_SEGMENT_SHARES if len(picked) == 1 else MANY_SEGMENTS_SHARES
                questions = choose_questions(
                    part, count=self.questions_per_row, seed=row, shares=kinds
                )
                subsets.append(
                    Subset(
                        segments=tuple(index * GROUP_SIZE + k for k in picked),
                        questions=tuple(questions),
                    )
                )
        return subsets

    def _pick(self, rng: random.Random, step: int) -> list[list[int]]:
        """Draw the subsets of one group: every segment alone at first, random sizes later."""
        if step < self.solo_steps:
            return [[segment] for segment in range(GROUP_SIZE)]
        sizes, shares = list(SUBSET_SHARES), list(SUBSET_SHARES.values())
        return [
            sorted(rng.sample(range(GROUP_SIZE), k=rng.choices(sizes, weights=shares)[0]))
            for _ in range(self.rows_per_group)
        ]

    def _readout_loss(self, e: Tensor, films: Films) -> Tensor:
        if self.readout is None:
            return torch.zeros(())
        scenes = [scene for world in films.worlds for scene in world.scenes]
        loss: Tensor = self.readout(e, segment_targets(scenes))
        return loss

    def _ownership_loss(
        self,
        inputs: Sequence[Tensor],
        factors: Factors,
        rows: PackedRows,
        subsets: Sequence[Subset],
    ) -> Tensor:
        """Return the cross-entropy of the owner under the segments' log energies |B_k A_k x|^2."""
        questions = [(s, q) for s in subsets for q in s.questions]
        loss, count = torch.zeros(()), 0
        by_size: dict[int, list[int]] = {}
        for block, (subset, question) in enumerate(questions):
            if len(subset.segments) > 1 and question.scene is not None:
                by_size.setdefault(len(subset.segments), []).append(block)
        for blocks in by_size.values():
            index = torch.tensor(blocks)
            segments = torch.tensor([questions[k][0].segments for k in blocks])  # [block, segment]
            owner = torch.tensor([questions[k][1].scene for k in blocks])
            energy = torch.zeros(segments.shape)
            for position, x in enumerate(inputs):
                opening = x[rows.block_row[index], rows.answer_column[index]]  # [block, d_in]
                a, b = factors.a[:, position], factors.b[:, position]
                ranks = torch.einsum("skri,ki->skr", a[segments.T], opening)
                update = torch.einsum("skr,skro->sko", ranks, b[segments.T])
                energy = energy + update.square().sum(-1).T
            log_energy = energy.clamp_min(1e-12).log()
            loss = loss + F.cross_entropy(log_energy, owner, reduction="sum")
            count += len(blocks)
        return loss / max(count, 1)


@contextmanager
def read_down_proj(
    model: SmolVLMForConditionalGeneration, layers: Sequence[int]
) -> Iterator[list[Tensor]]:
    """Collect the inputs of `mlp.down_proj` of some decoder layers during a forward pass."""
    seen: list[Tensor] = []
    handles = [
        model.model.text_model.layers[layer].mlp.down_proj.register_forward_pre_hook(
            lambda _module, args: seen.append(args[0])
        )
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _right_by_size(subsets: Sequence[Subset], right: Tensor) -> dict[str, float]:
    """Average exact match by type for each subset size."""
    metrics: dict[str, float] = {}
    start = 0
    by_size: dict[int, tuple[list[Sequence[Question]], list[Tensor]]] = {}
    for subset in subsets:
        end = start + len(subset.questions)
        chosen, parts = by_size.setdefault(len(subset.segments), ([], []))
        chosen.append(subset.questions)
        parts.append(right[start:end])
        start = end
    for size, (chosen, parts) in by_size.items():
        metrics |= right_by_kind(chosen, torch.cat(parts), size)
    return metrics
