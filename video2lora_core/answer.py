"""Questions in, answers out: greedy decoding of the frozen VLM.

`answer` is the method's promise: the prompt is text, it holds no visual token (checked on the ids),
and everything known about the video comes from the injected adapter. `answer_in_context` shows
the same model the frames instead; it is what the adapter is compared with. Both share one loop
over the model's forward with a KV cache, so that their times can be compared too.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from video2lora_core.adapter import Adapter
from video2lora_core.compose import stack
from video2lora_core.encoder import check_frames, look, place, refuse_adapted
from video2lora_core.errors import AdapterError, PromptError, UsageError
from video2lora_core.inject import adapted
from video2lora_core.pixels import normalise
from video2lora_core.vlm import Vlm, in_context_ids, query_ids


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
    """From the prompt's ids to the first new id, injection and vision included; of the batch."""
    prompt_ids: tuple[int, ...]
    """The prompt as the model was given it, without padding."""
    new_ids: tuple[int, ...] = ()
    """What was generated before the end token."""


def answer(
    vlm: Vlm,
    questions: Sequence[str],
    *,
    adapters: Sequence[Adapter] | Adapter | None = None,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Answer questions from text and adapters alone.

    Args:
        vlm: the answer model.
        questions: one batch, a question per row.
        adapters: one per question, or one for all; each with the bias. None asks the model blind.
        max_new_tokens: most tokens generated for an answer.

    Raises:
        PromptError: a question is empty, holds special tokens or is too long.
        AdapterError: an adapter lacks the bias, or there are not as many as questions.
        ModelMismatchError: an adapter does not fit the model.
    """
    prompts = [query_ids(vlm, question) for question in questions]
    _check_prompts(vlm, prompts, max_new_tokens)
    _refuse_visual_tokens(vlm, prompts)
    _check_adapters(adapters, len(prompts))
    started = time.perf_counter()
    with torch.no_grad(), _injection(vlm, adapters):
        input_ids, attention_mask = _pad_left(vlm, prompts)
        embeddings = vlm.model.get_input_embeddings()(input_ids)
        rows, first_s = _greedy(vlm, embeddings, attention_mask, max_new_tokens=max_new_tokens)
    return _answers(vlm, prompts, rows, first_s=first_s - started)


def answer_in_context(
    vlm: Vlm,
    pixels: UInt8[np.ndarray, "frame channel height width"],
    times_us: Sequence[int],
    questions: Sequence[str],
    *,
    duration_us: int,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Answer questions about one video with all its frames in the prompt.

    Args:
        vlm: the answer model; no adapter is injected.
        pixels: the prepared frames of all segments, in order.
        times_us: each frame's time in the video.
        questions: one batch about this video.
        duration_us: length of the video.
        max_new_tokens: most tokens generated for an answer.

    Raises:
        PromptError: a question is empty or holds special tokens, or the prompt is too long.
        UsageError: an adapter is injected.
    """
    refuse_adapted(vlm)
    prompts = [in_context_ids(vlm, times_us, duration_us, question) for question in questions]
    _check_prompts(vlm, prompts, max_new_tokens)
    started = time.perf_counter()
    with torch.no_grad():
        input_ids, attention_mask = _pad_left(vlm, prompts)
        frames = torch.tensor(pixels)  # a copy: decoded frames may be read-only
        check_frames(vlm, frames.expand(len(prompts), *frames.shape), input_ids)
        # The video is seen once, whatever the number of questions.
        visual_tokens = look(vlm, normalise(frames.to(vlm.device), dtype=vlm.dtype))
        embeddings = place(vlm, input_ids, visual_tokens.repeat(len(prompts), 1, 1))
        rows, first_s = _greedy(vlm, embeddings, attention_mask, max_new_tokens=max_new_tokens)
    return _answers(vlm, prompts, rows, first_s=first_s - started)


def answer_logits(
    vlm: Vlm,
    questions: Sequence[str],
    answers: Sequence[Sequence[int]],
    *,
    adapters: Sequence[Adapter] | Adapter | None = None,
) -> list[Float[Tensor, "token vocab"]]:
    """Return the logits at every token of given answers, the end token included.

    Args:
        vlm: the answer model.
        questions: one batch, a question per row.
        answers: each row's answer, as `Answer.new_ids`.
        adapters: as for `answer`.
    """
    prompts = [query_ids(vlm, question) for question in questions]
    rows = [[*p, *given] for p, given in zip(prompts, answers, strict=True)]
    _check_prompts(vlm, rows, 1)
    _refuse_visual_tokens(vlm, prompts)
    _check_adapters(adapters, len(prompts))
    num_kept = max(map(len, answers)) + 2
    with torch.no_grad(), _injection(vlm, adapters):
        input_ids, attention_mask = _pad_left(vlm, [[*row, vlm.end_token_id] for row in rows])
        logits = vlm.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=None if attention_mask is None else _positions(attention_mask),
            logits_to_keep=num_kept,
        ).logits
    # The last position predicts what would follow the end token.
    return [row[-len(given) - 2 : -1] for row, given in zip(logits, answers, strict=True)]


def _greedy(
    vlm: Vlm,
    embeddings: Float[Tensor, "batch token d_model"],
    attention_mask: Int[Tensor, "batch token"] | None,
    *,
    max_new_tokens: int,
) -> tuple[list[list[int]], float]:
    """Return each row's new ids up to its end token, and the clock at the first ones."""
    end = vlm.end_token_id
    position_ids = None if attention_mask is None else _positions(attention_mask)
    output = vlm.model(
        inputs_embeds=embeddings,
        attention_mask=attention_mask,
        position_ids=position_ids,
        use_cache=True,
        logits_to_keep=1,
    )
    ids = output.logits[:, -1].argmax(dim=-1)
    rows = [[row] for row in ids.tolist()]  # waits for the device
    first_s = time.perf_counter()
    is_done = ids == end
    for _ in range(1, max_new_tokens):
        if bool(is_done.all()):
            break
        if attention_mask is not None and position_ids is not None:
            attention_mask = torch.cat([attention_mask, torch.ones_like(ids)[:, None]], dim=1)
            position_ids = position_ids[:, -1:] + 1
        output = vlm.model(
            input_ids=ids[:, None],
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=output.past_key_values,
            use_cache=True,
            logits_to_keep=1,
        )
        ids = output.logits[:, -1].argmax(dim=-1).masked_fill(is_done, end)
        is_done = is_done | (ids == end)
        for row, new_id in zip(rows, ids.tolist(), strict=True):
            row.append(new_id)
    return [row[: row.index(end)] if end in row else row for row in rows], first_s


def _positions(attention_mask: Int[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
    """Count real tokens only, so that padding on the left moves no position."""
    return (attention_mask.cumsum(dim=1) - 1).clamp_min(0)


def _pad_left(
    vlm: Vlm, prompts: Sequence[Sequence[int]]
) -> tuple[Int[Tensor, "batch token"], Int[Tensor, "batch token"] | None]:
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    rows = [
        [vlm.end_token_id] * num_pads + list(prompt)
        for num_pads, prompt in zip(padding, prompts, strict=True)
    ]
    input_ids = torch.tensor(rows, device=vlm.device)
    if not any(padding):
        return input_ids, None
    mask = [[0] * num_pads + [1] * (longest - num_pads) for num_pads in padding]
    return input_ids, torch.tensor(mask, device=vlm.device)


def _injection(
    vlm: Vlm, adapters: Sequence[Adapter] | Adapter | None
) -> AbstractContextManager[object]:
    if adapters is None:
        return nullcontext()
    if isinstance(adapters, Adapter):
        return adapted(vlm.model, adapters)
    return adapted(vlm.model, stack(adapters))


def _answers(
    vlm: Vlm,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    *,
    first_s: float,
) -> list[Answer]:
    return [
        Answer(
            text=vlm.tokenizer.decode(new_ids, skip_special_tokens=True).strip(),
            num_prompt_tokens=len(prompt),
            num_visual_tokens=prompt.count(vlm.image_token_id),
            num_new_tokens=len(new_ids),
            time_to_first_token_s=first_s,
            prompt_ids=tuple(prompt),
            new_ids=tuple(new_ids),
        )
        for prompt, new_ids in zip(prompts, rows, strict=True)
    ]


def _check_prompts(vlm: Vlm, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
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


def _refuse_visual_tokens(vlm: Vlm, prompts: Sequence[Sequence[int]]) -> None:
    counts = [prompt.count(vlm.image_token_id) for prompt in prompts]
    if any(counts):
        raise PromptError(
            f"answer: prompts hold {counts} visual tokens (expected none); take image tokens out "
            "of the layout's query template"
        )


def _check_adapters(adapters: Sequence[Adapter] | Adapter | None, num_questions: int) -> None:
    if adapters is None:
        return
    given = [adapters] if isinstance(adapters, Adapter) else list(adapters)
    if not isinstance(adapters, Adapter) and len(given) != num_questions:
        raise AdapterError(
            f"answer: {len(given)} adapters for {num_questions} questions (expected one each, or "
            "one for all); give them row by row"
        )
    without = [row for row, adapter in enumerate(given) if not adapter.has_bias]
    if without:
        raise AdapterError(
            f"answer: the adapters of rows {without} lack the bias (expected it exactly once); "
            "add it with compose.with_bias"
        )
