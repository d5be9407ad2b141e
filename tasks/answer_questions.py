"""Answer from adapters: add the bias once, ask; over many segments, let the question choose."""

from collections.abc import Sequence

from tasks.models import LoadedModel
from video2lora_core import answer, compose
from video2lora_core.adapter import Adapter
from video2lora_core.answer import Answer
from video2lora_core.routing import DEFAULT_STRATEGY, RoutedAnswer, answer_routed


def ready(model: LoadedModel, adapter: Adapter) -> Adapter:
    """Add the bias to an adapter: it is then ready to be injected.

    Raises:
        AdapterError: it holds the bias already, or is not of this model's checkpoint.
    """
    return compose.with_bias(adapter.to(device=model.vlm.device), model.bias())


def answer_questions(
    model: LoadedModel,
    questions: Sequence[str],
    adapter: Adapter | None,
    *,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Ask questions that all use one adapter; None asks the model blind."""
    return answer.answer(model.vlm, questions, adapters=adapter, max_new_tokens=max_new_tokens)


def answer_over_segments(
    model: LoadedModel,
    question: str,
    segments: Sequence[Adapter],
    *,
    strategy: str = DEFAULT_STRATEGY,
    max_new_tokens: int = 32,
) -> RoutedAnswer:
    """Ask one question of a video's segments; a strategy says which of them answer."""
    device = model.vlm.device
    return answer_routed(
        model.vlm,
        question,
        [segment.to(device=device) for segment in segments],
        bias=model.bias(),
        strategy=strategy,
        max_new_tokens=max_new_tokens,
    )
