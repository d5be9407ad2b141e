"""Questions in, answers out: greedy decoding of the frozen VLM.

`answer` is the method's promise: the prompt is text, it holds no visual token (checked on the ids),
and everything known about the video comes from the injected adapter. `answer_in_context` shows
the same model the frames instead, for every question anew; `read_video` and `answer_from_prefix`
show them once and keep the KV cache. These are what the adapter is compared with. All share one
loop (answer_decoding.py), so that their times can be compared too.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from video2lora_core.adapter import Adapter
from video2lora_core.answer_decoding import (
    Answer,
    Inputs,
    check_prompts,
    clock,
    generate,
    pad_left,
    positions,
    to_answers,
    vocabulary,
)
from video2lora_core.answer_inputs import (
    check_adapters,
    injecting,
    keeping,
    query_prompts,
    text_inputs,
)
from video2lora_core.answer_prefix import VideoPrefix, answer_from_prefix, read_video
from video2lora_core.encoder import check_frames, look, place, refuse_adapted
from video2lora_core.inject import merged
from video2lora_core.pixels import normalise
from video2lora_core.vlm import Vlm, in_context_ids

__all__ = [
    "Answer",
    "VideoPrefix",
    "answer",
    "answer_from_prefix",
    "answer_in_context",
    "answer_logits",
    "answers_with_logits",
    "merged",
    "read_video",
]


def answer(
    vlm: Vlm,
    questions: Sequence[str],
    *,
    adapters: Sequence[Adapter] | Adapter | None = None,
    max_new_tokens: int = 32,
    is_merged: bool = False,
) -> list[Answer]:
    """Answer questions from text and adapters alone.

    Args:
        vlm: the answer model.
        questions: one batch, a question per row.
        adapters: one per question, or one for all; each with the bias. None asks the model blind.
            Questions that share an adapter should name the same object: it is then read once.
        max_new_tokens: most tokens generated for an answer.
        is_merged: add the one adapter's update to a copy of the weights instead of computing it
            beside them; `answer_plan.is_merging_faster` says when that pays. For several batches,
            ask without adapters inside `with merged(vlm, adapter):`.

    Raises:
        PromptError: a question is empty, holds special tokens or is too long.
        AdapterError: an adapter lacks the bias, or there are not as many as questions.
        ModelMismatchError: an adapter does not fit the model.
    """
    prompts = query_prompts(vlm, questions, max_new_tokens)
    check_adapters(adapters, len(prompts), is_merged=is_merged)
    with torch.no_grad(), injecting(vlm, adapters, is_merged=is_merged) as held:
        started_s = clock(vlm)
        made = generate(
            vlm,
            text_inputs(vlm, prompts),
            max_new_tokens=max_new_tokens,
            keep_rows=keeping(vlm, held),
        )
    return to_answers(vlm, prompts, made, started_s=started_s)


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
    check_prompts(vlm, prompts, max_new_tokens)
    started_s = clock(vlm)
    with torch.no_grad():
        input_ids, attention_mask = pad_left(vlm, prompts)
        frames = torch.tensor(pixels)  # a copy: decoded frames may be read-only
        check_frames(vlm, frames.expand(len(prompts), *frames.shape), input_ids)
        # The video is seen once, whatever the number of questions.
        visual_tokens = look(vlm, normalise(frames.to(vlm.device), dtype=vlm.dtype))
        embeddings = place(vlm, input_ids, visual_tokens.repeat(len(prompts), 1, 1))
        made = generate(
            vlm,
            Inputs(embeddings=embeddings, attention_mask=attention_mask),
            max_new_tokens=max_new_tokens,
            keep_rows=lambda _: None,
        )
    return to_answers(vlm, prompts, made, started_s=started_s)


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
    prompts = query_prompts(vlm, questions, max(map(len, answers), default=0) + 1)
    rows = [[*p, *given] for p, given in zip(prompts, answers, strict=True)]
    check_adapters(adapters, len(prompts))
    num_tokens = [len(given) + 1 for given in answers]
    with torch.no_grad(), injecting(vlm, adapters):
        input_ids, attention_mask = pad_left(vlm, [[*row, vlm.end_token_id] for row in rows])
        hidden = vlm.model.model.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=None if attention_mask is None else positions(attention_mask),
            use_cache=False,
        ).last_hidden_state
        # The last position predicts what would follow the end token.
        wanted = [x[-num - 1 : -1] for x, num in zip(hidden, num_tokens, strict=True)]
        return list(vocabulary(vlm, torch.cat(wanted)).split(num_tokens))


def answers_with_logits(
    vlm: Vlm,
    questions: Sequence[str],
    *,
    adapters: Sequence[Adapter] | Adapter | None = None,
    max_new_tokens: int = 32,
) -> list[tuple[tuple[int, ...], Float[Tensor, "token vocab"]]]:
    """Return each answer's new ids and the logits that `answer_logits` gives for them.

    They are taken while the answer is decoded, so that no prompt is read twice.

    Args:
        vlm: the answer model.
        questions: one batch, a question per row.
        adapters: as for `answer`.
        max_new_tokens: most tokens generated for an answer.
    """
    prompts = query_prompts(vlm, questions, max_new_tokens)
    check_adapters(adapters, len(prompts))
    seen: list[list[Tensor]] = [[] for _ in prompts]

    def see(places: Sequence[int], logits: Tensor) -> None:
        for number, row in zip(places, logits, strict=True):
            seen[number].append(row)

    with torch.no_grad(), injecting(vlm, adapters) as held:
        made = generate(
            vlm,
            text_inputs(vlm, prompts),
            max_new_tokens=max_new_tokens + 1,  # the last forward shows whether the answer ends
            keep_rows=keeping(vlm, held),
            see_logits=see,
        )
    new_ids = [tuple(row[:max_new_tokens]) for row in made.rows]
    return [(ids, torch.stack(of[: len(ids) + 1])) for ids, of in zip(new_ids, seen, strict=True)]
