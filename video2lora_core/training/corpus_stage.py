"""A hypernetwork learns over any frozen VLM, from real videos, prompts and targets.

A step internalizes each distinct segment of its examples once, composes one adapter per example
(the plain sum, the bias once) and lets the frozen model, which sees text only, say the target.
Losses: cross-entropy on the target; KL to the teacher, the same frozen model with the asked frames
in context; or, without a target, KL alone on what the teacher itself says (self-distillation).

Under autocast the perceiver and the frozen model's blocks run in bfloat16; residual MLP,
normalisation, head, factors and losses stay in float32, as at inference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from video2lora_core.adapter import Factors
from video2lora_core.answer import answer_in_context
from video2lora_core.compose import batch_from_factors
from video2lora_core.encoder import embed, stream_features
from video2lora_core.errors import UsageError
from video2lora_core.frames import SegmentFrames
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.inject import adapted
from video2lora_core.internalize import check_fit, collate_pixels, collate_prompts
from video2lora_core.training.label_rows import LabelRows, label_rows
from video2lora_core.training.loop import StepResult
from video2lora_core.training.losses import cross_entropy, distillation
from video2lora_core.vlm import Vlm, in_context_ids, query_ids, target_ids

NO_ANSWER = "Unable to determine."
"""The target where the teacher said nothing (METHOD.md, Training)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """What is asked, of which segments, and what should be said."""

    segments: tuple[SegmentFrames, ...]
    """What is composed, in any order."""
    num_asked: int
    """The first so many segments are the span asked about; the others distract."""
    question: str
    """The prompt."""
    target: str | None
    """What should be said; None for what the teacher says now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What is learned from."""

    cross_entropy: float = 1.0
    kl: float = 0.0
    temperature: float = 1.0


class CorpusStage:
    """The loss of a batch of examples; batches are a function of their number."""

    def __init__(
        self,
        vlm: Vlm,
        hypernetwork: Hypernetwork,
        examples: Callable[[int], Sequence[Example]],
        *,
        weights: LossWeights,
        max_new_tokens: int = 64,
        is_bfloat16: bool = False,
        is_recomputed: bool = False,
    ) -> None:
        """Train `hypernetwork` over `vlm`, which stays frozen.

        Args:
            vlm: encoder, answer model and teacher.
            hypernetwork: on the VLM's device, in float32.
            examples: batch number -> its examples.
            weights: the losses' weights.
            max_new_tokens: how much the teacher may say, where it is asked online.
            is_bfloat16: run perceiver and frozen blocks under autocast.
            is_recomputed: compute the perceiver again in the backward pass, for a fraction of the
                memory.
        """
        check_fit(vlm, hypernetwork.config)
        self.vlm, self.hypernetwork, self.examples = vlm, hypernetwork, examples
        self.weights, self.max_new_tokens = weights, max_new_tokens
        self.is_bfloat16, self.is_recomputed = is_bfloat16, is_recomputed

    def step(self, number: int) -> StepResult:
        """Return the loss of batch `number`."""
        return self.loss_of(self.examples(number))

    def loss_of(self, examples: Sequence[Example]) -> StepResult:
        """Return the loss of examples, each weighing the same."""
        segments, groups = distinct_segments(examples)
        batch = batch_from_factors(
            self.factors(segments),
            groups=groups,
            bias=self.hypernetwork.bias_factors(),
            layers=self.hypernetwork.config.layers,
            scaling=self.hypernetwork.config.scaling,
        )
        targets = [self._target(example) for example in examples]
        rows = label_rows(
            [query_ids(self.vlm, example.question) for example in examples],
            [target_ids(self.vlm, target) for target in targets],
            pad_id=self.vlm.end_token_id,
        ).to(self.vlm.device)
        with self._autocast(), adapted(self.vlm.model, batch):
            student = self._label_logits(self.vlm.model.get_input_embeddings()(rows.ids), rows)
        loss, metrics = student.new_zeros((), dtype=torch.float32), {}
        if self.weights.cross_entropy:
            answer_loss = cross_entropy(
                student, rows.label_id, rows.label_row, num_samples=len(examples)
            )
            loss = loss + self.weights.cross_entropy * answer_loss
            metrics["answer_loss"] = answer_loss.item()
        if self.weights.kl:
            teacher = [
                self.teacher_logits(e, target) for e, target in zip(examples, targets, strict=True)
            ]
            kl = distillation(rows.by_row(student), teacher, temperature=self.weights.temperature)
            loss = loss + self.weights.kl * kl
            metrics["kl"] = kl.item()
        metrics["num_segments"] = len(segments) / len(examples)
        return StepResult(loss=loss, metrics=metrics)

    def factors(self, segments: Sequence[SegmentFrames]) -> dict[str, Factors]:
        """Internalize segments with gradients for the hypernetwork: [segment, layer, rank, d]."""
        config, vlm = self.hypernetwork.config, self.vlm
        input_ids, mask = collate_prompts(vlm, segments)
        mask = None if mask is None else mask.to(vlm.device)
        made: dict[str, list[Factors]] = {module.name: [] for module in config.modules}

        def consume(layer: int, x: Tensor) -> None:
            e = self._embed(x, mask)
            with torch.autocast(vlm.device.type, enabled=False):
                position = config.layers.index(layer)
                found = self.hypernetwork.factors_of(e[:, None], slice(position, position + 1))
            for name, factors in found.items():
                made[name].append(factors)

        with self._autocast():
            stream_features(
                vlm,
                pixels=collate_pixels(segments),
                input_ids=input_ids,
                attention_mask=mask,
                layers=config.layers,
                consume=consume,
            )
        return {
            name: Factors(
                a=torch.cat([factors.a for factors in layers], dim=1),
                b=torch.cat([factors.b for factors in layers], dim=1),
            )
            for name, layers in made.items()
        }

    @torch.no_grad()
    def teacher_logits(self, example: Example, target: str) -> Float[Tensor, "label vocab"]:
        """Return the frozen model's logits at the target, with the asked frames in context."""
        vlm, (pixels, times_us, duration_us) = self.vlm, shown(example)
        prompt = in_context_ids(vlm, times_us, duration_us, example.question)
        rows = label_rows([prompt], [target_ids(vlm, target)], pad_id=vlm.end_token_id)
        rows = rows.to(vlm.device)
        with self._autocast():
            embeddings = embed(vlm, pixels=torch.tensor(pixels)[None], input_ids=rows.ids)
            return self._label_logits(embeddings, rows)

    def _target(self, example: Example) -> str:
        if example.target is not None:
            return example.target
        pixels, times_us, duration_us = shown(example)
        said = answer_in_context(
            self.vlm,
            pixels,
            times_us,
            [example.question],
            duration_us=duration_us,
            max_new_tokens=self.max_new_tokens,
        )
        return plain_target(said[0].text, self.vlm)

    def _label_logits(self, embeddings: Tensor, rows: LabelRows) -> Float[Tensor, "label vocab"]:
        """Run the decoder; only labels' positions go through the vocabulary."""
        core = self.vlm.model.model.text_model
        hidden = core(
            inputs_embeds=embeddings, attention_mask=rows.mask, use_cache=False
        ).last_hidden_state
        logits: Tensor = self.vlm.model.lm_head(hidden[rows.label_row, rows.label_column])
        return logits

    def _embed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.is_recomputed and torch.is_grad_enabled():
            e: Tensor = checkpoint(self.hypernetwork.embed, x, mask, use_reentrant=False)
            return e
        return self.hypernetwork.embed(x, mask)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.vlm.device.type, dtype=torch.bfloat16, enabled=self.is_bfloat16)


def distinct_segments(
    examples: Sequence[Example],
) -> tuple[list[SegmentFrames], list[list[int]]]:
    """List each segment once, and each example's segments by their places in that list."""
    if not examples:
        raise UsageError("train: a batch without examples; correct the training config")
    places: dict[int, int] = {}
    segments: list[SegmentFrames] = []
    groups = []
    for example in examples:
        for segment in example.segments:
            if id(segment) not in places:
                places[id(segment)] = len(segments)
                segments.append(segment)
        groups.append([places[id(segment)] for segment in example.segments])
    return segments, groups


def shown(example: Example) -> tuple[np.ndarray, list[int], int]:
    """Return what the teacher sees of an example: frames, times and duration of the asked span.

    Times count from the start of the span, as if the span were a video of its own.
    """
    asked = example.segments[: example.num_asked]
    start_us = asked[0].segment.start_us
    pixels = np.concatenate([segment.pixels for segment in asked])
    times_us = [time - start_us for segment in asked for time in segment.times_us]
    return pixels, times_us, asked[-1].segment.end_us - start_us


def plain_target(text: str, vlm: Vlm) -> str:
    """Return a teacher's answer as a target: no special token in it, and never empty."""
    for token in vlm.tokenizer.get_added_vocab():
        text = text.replace(token, " ")
    text = " ".join(text.split())
    return text or NO_ANSWER
