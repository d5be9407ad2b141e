"""What every way of answering at scale shares: checked prompts, batches that fit, rows' columns."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch

from storage.schemas import Row
from tasks.meet_video import Reject
from video2lora_core.answer import Answer
from video2lora_core.errors import PromptError, Reason
from video2lora_core.vlm import Vlm

logger = logging.getLogger(__name__)

T = TypeVar("T")
U = TypeVar("U")
Outcome = Row | Reject
"""The columns of an answer, or why there is none."""
Outcomes = Mapping[str, Outcome]
"""By question_id."""


def num_prompt_tokens(
    vlm: Vlm, make_ids: Callable[[], Sequence[int]], *, max_new_tokens: int
) -> int | Reject:
    """Return the length of a prompt, or why the model cannot be asked so."""
    try:
        num_tokens = len(make_ids())
    except PromptError as error:
        return Reject(reason=Reason.QUESTION_INVALID, detail=str(error))
    if num_tokens + max_new_tokens <= vlm.max_tokens:
        return num_tokens
    detail = (
        f"prompt and answer need {num_tokens + max_new_tokens} tokens (expected at most "
        f"{vlm.max_tokens}, the positions of {vlm.name}); ask about a shorter span"
    )
    return Reject(reason=Reason.PROMPT_TOO_LONG, detail=detail)


def batches(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut rows into batches, in their order."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


def halving(
    ask: Callable[[Sequence[T]], Sequence[U]], batch: Sequence[T], *, device: object
) -> list[U | Reject]:
    """Halve a batch that does not fit the device, until one question alone does not."""
    try:
        return list(ask(batch))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(batch) == 1:
            detail = f"one question does not fit the memory of {device}"
            return [Reject(reason=Reason.DEVICE_OOM, detail=detail)]
    logger.warning("device memory is full at %d questions; halving the batch", len(batch))
    middle = len(batch) // 2
    first = halving(ask, batch[:middle], device=device)
    return first + halving(ask, batch[middle:], device=device)


def answer_columns(answer: Answer, **others: Any) -> Row:
    """Return the columns that an answer itself decides, and others."""
    return {
        "answer": answer.text,
        "num_prompt_tokens": answer.num_prompt_tokens,
        "num_visual_tokens": answer.num_visual_tokens,
        "num_new_tokens": answer.num_new_tokens,
        "time_to_first_token_s": answer.time_to_first_token_s,
        **others,
    }
