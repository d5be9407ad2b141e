"""Answer from an adapter: add the bias once, ask."""

from collections.abc import Sequence

from tasks.models import LoadedModel
from video2lora_core import answer, compose
from video2lora_core.adapter import Adapter
from video2lora_core.answer import Answer


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
