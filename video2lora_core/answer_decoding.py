"""Greedy decoding of a batch of prompts with a KV cache: what every way of answering shares.

One loop over the model's forward, so that the times of the ways can be compared. Prompts of
different lengths are padded on the left, and padding moves no position. A row that has ended is
dropped from the batch as soon as half of the batch has (`_DROP_SHARE` says why half).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from video2lora_core.errors import PromptError, UsageError
from video2lora_core.vlm import Vlm

KeepRows = Callable[[Tensor], None]
SeeLogits = Callable[[Sequence[int], Tensor], None]

# Dropping rows copies the KV cache and the adapters of the rows that stay. Done only when half of
# the rows have ended, all copies together cost less than one of the whole batch. With 96 questions
# to the embedded default, answers of 1 to 15 tokens, that took 1.4 times less (1.2 to 1.7).
_DROP_SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Hold one answer and what it took."""

    text: str
    """The answer, without the token that ends it."""
    num_prompt_tokens: int
    """Tokens of the prompt, visual ones included."""
    num_visual_tokens: int
    """Visual tokens of the prompt: 0 when answered from an adapter."""
    num_new_tokens: int
    """Tokens generated before the end token."""
    time_to_first_token_s: float
    """From the prompt's ids to the first new id, the adapter or prefix resident, the vision of
    frames in context included; of the batch."""
    answer_s: float
    """From the prompt's ids to the last new id of the batch."""
    prompt_ids: tuple[int, ...]
    """The prompt as the model was given it, without padding."""
    new_ids: tuple[int, ...] = ()
    """What was generated before the end token."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Inputs:
    """What the first forward of a batch is given."""

    embeddings: Float[Tensor, "batch token d_model"]
    """Of the tokens that are not in the cache yet."""
    attention_mask: Int[Tensor, "batch key"] | None
    """1 where a token is real, the cache's included; None when nothing is padded."""
    cache: Any = None
    """Keys and values of the tokens before; the forward adds to it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Generated:
    """The new ids of a batch, and when they came."""

    rows: list[list[int]]
    """Each row's new ids before its end token."""
    first_s: float
    """The clock at the first ids."""
    last_s: float
    """The clock at the last ids."""


def generate(
    vlm: Vlm,
    inputs: Inputs,
    *,
    max_new_tokens: int,
    keep_rows: KeepRows | None,
    see_logits: SeeLogits | None = None,
) -> Generated:
    """Decode greedily until every row has ended.

    Args:
        vlm: the answer model.
        inputs: the batch.
        max_new_tokens: most tokens generated for a row.
        keep_rows: told which rows of the batch go on whenever others are dropped; None keeps all.
        see_logits: given the rows that are decoded, and their logits, forward by forward.
    """
    batch = _Batch(vlm, inputs, see_logits)
    ids = batch.read(inputs.embeddings)
    new_ids = ids.tolist()  # waits for the device
    first_s = time.perf_counter()
    rows: list[list[int]] = [[] for _ in new_ids]
    places, open_places = list(range(len(rows))), set(range(len(rows)))
    for number in range(1, max_new_tokens + 1):
        for place, new_id in zip(places, new_ids, strict=True):
            if new_id == vlm.end_token_id:
                open_places.discard(place)
            elif place in open_places:
                rows[place].append(new_id)
        if not open_places or number == max_new_tokens:
            break
        if keep_rows is not None and len(open_places) <= _DROP_SHARE * len(places):
            kept = [row for row, place in enumerate(places) if place in open_places]
            places = [places[row] for row in kept]
            ids = batch.keep(ids, kept)
            keep_rows(torch.tensor(kept, device=vlm.device))
        ids = batch.step(ids)
        new_ids = ids.tolist()
    return Generated(rows=rows, first_s=first_s, last_s=time.perf_counter())


class _Batch:
    """The rows that are still decoded: their cache, mask and positions."""

    def __init__(self, vlm: Vlm, inputs: Inputs, see_logits: SeeLogits | None) -> None:
        self._vlm, self._cache, self._mask = vlm, inputs.cache, inputs.attention_mask
        self._see_logits, self._places = see_logits, list(range(len(inputs.embeddings)))
        self._positions: Tensor | None = None
        if self._mask is not None:
            self._positions = positions(self._mask)[:, -inputs.embeddings.shape[1] :]

    def read(self, embeddings: Tensor) -> Tensor:
        """Return the first new id of each row."""
        return self._forward(inputs_embeds=embeddings)

    def step(self, ids: Tensor) -> Tensor:
        """Add one id to each row and return the next."""
        if self._mask is not None and self._positions is not None:
            self._mask = torch.cat([self._mask, torch.ones_like(ids)[:, None]], dim=1)
            self._positions = self._positions[:, -1:] + 1
        return self._forward(input_ids=ids[:, None])

    def keep(self, ids: Tensor, rows: Sequence[int]) -> Tensor:
        """Drop all other rows; return the ids of those that stay."""
        self._places = [self._places[row] for row in rows]
        index = torch.tensor(rows, device=ids.device)
        self._cache.batch_select_indices(index)
        if self._mask is not None and self._positions is not None:
            self._mask, self._positions = self._mask[index], self._positions[index]
        return ids[index]

    def _forward(self, **inputs: Tensor) -> Tensor:
        output = self._vlm.model.model.text_model(
            **inputs,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = output.past_key_values
        logits = vocabulary(self._vlm, output.last_hidden_state[:, -1])
        if self._see_logits is not None:
            self._see_logits(self._places, logits)
        return logits.argmax(dim=-1)


def vocabulary(vlm: Vlm, hidden: Float[Tensor, "token d_model"]) -> Float[Tensor, "token vocab"]:
    """Return the logits of some positions, of any rows.

    Without a batch axis: torch multiplies a slice [batch, 1, d_model] of longer rows row by row,
    and reads the whole vocabulary for each; 64 rows took 8.5 times the time.
    """
    logits: Tensor = vlm.model.lm_head(hidden)
    return logits


def new_cache(layers: Sequence[tuple[Tensor, Tensor]], *, num_rows: int) -> Any:
    """Make a KV cache of its own for `num_rows` rows that all begin with the same tokens."""
    return DynamicCache(
        [(k.expand(num_rows, -1, -1, -1), v.expand(num_rows, -1, -1, -1)) for k, v in layers]
    )


def clock(vlm: Vlm) -> float:
    """Read the clock once the device has done what it was told."""
    if vlm.device.type == "cuda":
        torch.cuda.synchronize(vlm.device)
    return time.perf_counter()


def positions(attention_mask: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Count real tokens only, so that padding on the left moves no position."""
    return (attention_mask.cumsum(dim=1) - 1).clamp_min(0)


def pad_left(
    vlm: Vlm, prompts: Sequence[Sequence[int]], *, num_cached_tokens: int = 0
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch key"] | None]:
    """Return ids and mask of equal length; the mask covers `num_cached_tokens` before them too."""
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    rows = [
        [vlm.end_token_id] * num_pads + list(prompt)
        for num_pads, prompt in zip(padding, prompts, strict=True)
    ]
    input_ids = torch.tensor(rows, device=vlm.device)
    if not any(padding):
        return input_ids, None
    cached = [1] * num_cached_tokens
    mask = [[*cached, *[0] * num_pads, *[1] * (longest - num_pads)] for num_pads in padding]
    return input_ids, torch.tensor(mask, device=vlm.device)


def to_answers(
    vlm: Vlm, prompts: Sequence[Sequence[int]], made: Generated, *, started_s: float
) -> list[Answer]:
    """Put what was generated beside its prompts."""
    return [
        Answer(
            text=vlm.tokenizer.decode(new_ids, skip_special_tokens=True).strip(),
            num_prompt_tokens=len(prompt),
            num_visual_tokens=prompt.count(vlm.image_token_id),
            num_new_tokens=len(new_ids),
            time_to_first_token_s=made.first_s - started_s,
            answer_s=made.last_s - started_s,
            prompt_ids=tuple(prompt),
            new_ids=tuple(new_ids),
        )
        for prompt, new_ids in zip(prompts, made.rows, strict=True)
    ]


def check_prompts(vlm: Vlm, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Refuse an empty batch, no room for an answer, and prompts beyond the model's positions."""
    if not prompts or max_new_tokens < 1:
        raise UsageError(
            f"answer: {len(prompts)} questions, max_new_tokens {max_new_tokens} (expected at least "
            "1 of each); ask something"
        )
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > vlm.max_tokens:
        raise PromptError(
            f"answer: prompt and answer need {longest} tokens (expected at most {vlm.max_tokens}, "
            f"the positions of {vlm.name}); shorten the question, show fewer frames or lower "
            "max_new_tokens"
        )
