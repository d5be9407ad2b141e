"""What a batch of questions is asked with: prompts without visual tokens, and adapters that fit.

Whatever may not be asked so is refused here, before the model is touched.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from video2lora_core.adapter import Adapter
from video2lora_core.answer_decoding import Inputs, KeepRows, check_prompts, pad_left
from video2lora_core.compose import stack
from video2lora_core.errors import AdapterError, PromptError, UsageError
from video2lora_core.inject import Injection, adapted, has_row_adapters, merged
from video2lora_core.vlm import Vlm, query_ids


def query_prompts(vlm: Vlm, questions: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Tokenise questions, each text once, and refuse what cannot be asked from text alone."""
    ids_of = {question: query_ids(vlm, question) for question in dict.fromkeys(questions)}
    prompts = [ids_of[question] for question in questions]
    check_prompts(vlm, prompts, max_new_tokens)
    _refuse_visual_tokens(vlm, prompts)
    return prompts


def text_inputs(vlm: Vlm, prompts: Sequence[Sequence[int]]) -> Inputs:
    """Embed prompts of text alone, padded to one length."""
    input_ids, attention_mask = pad_left(vlm, prompts)
    embeddings = vlm.model.get_input_embeddings()(input_ids)
    return Inputs(embeddings=embeddings, attention_mask=attention_mask)


def injecting(
    vlm: Vlm, adapters: Sequence[Adapter] | Adapter | None, *, is_merged: bool = False
) -> AbstractContextManager[Injection | None]:
    """Return the block in which the model has the adapters; each different one is stacked once."""
    if adapters is None:
        return nullcontext()
    if isinstance(adapters, Adapter):
        return merged(vlm, adapters) if is_merged else adapted(vlm.model, adapters)
    # Rows about the same video share their adapter: it is stacked, and read, once.
    different = list({id(adapter): adapter for adapter in adapters}.values())
    if len(different) == 1:
        return adapted(vlm.model, different[0])
    places = {id(adapter): place for place, adapter in enumerate(different)}
    rows = [places[id(adapter)] for adapter in adapters]
    return adapted(vlm.model, stack(different), row_adapters=rows)


def keeping(vlm: Vlm, injection: Injection | None) -> KeepRows | None:
    """Say what must follow when rows are dropped; None where rows must stay.

    Per-row adapters that the caller injected are not ours to shorten.
    """
    if injection is not None:
        return injection.keep_rows
    return None if has_row_adapters(vlm.model) else lambda _: None


def _refuse_visual_tokens(vlm: Vlm, prompts: Sequence[Sequence[int]]) -> None:
    counts = [prompt.count(vlm.image_token_id) for prompt in prompts]
    if any(counts):
        raise PromptError(
            f"answer: prompts hold {counts} visual tokens (expected none); take image tokens out "
            "of the layout's query template"
        )


def check_adapters(
    adapters: Sequence[Adapter] | Adapter | None, num_questions: int, *, is_merged: bool = False
) -> None:
    """Refuse adapters that are not as many as the questions, or lack the bias."""
    if is_merged and not isinstance(adapters, Adapter):
        raise UsageError(
            "answer: weights are merged with one adapter (found "
            f"{'none' if adapters is None else 'one for each question'}); give one for all, or "
            "leave is_merged out"
        )
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
