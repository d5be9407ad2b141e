"""Answer from adapters in a lake: fetch, compose, add the bias once, ask."""

from collections.abc import Sequence

from storage.lake import Lake
from tasks.models import LoadedModel
from video2lora_core import answer, compose
from video2lora_core.adapter import Adapter, adapter_from_bytes
from video2lora_core.answer import Answer
from video2lora_core.errors import ModelMismatchError

_SHOWN = 12


def fetch_composition(
    lake: Lake,
    model: LoadedModel,
    adapter_sha256s: Sequence[str],
    *,
    coefficients: Sequence[float] | None = None,
) -> Adapter:
    """Fetch adapters, sum their updates and add the bias: ready to be injected.

    Raises:
        ModelMismatchError: an adapter was made with another checkpoint than the model's.
    """
    parts = [adapter_from_bytes(lake.adapters.get(sha256)) for sha256 in adapter_sha256s]
    expected = model.checkpoint.sha256
    for sha256, part in zip(adapter_sha256s, parts, strict=True):
        if part.checkpoint_sha256 != expected:
            raise ModelMismatchError(
                f"adapter {sha256[:_SHOWN]}: made with another checkpoint (found "
                f"{part.checkpoint_sha256[:_SHOWN]}, the configured model has "
                f"{expected[:_SHOWN]}); give the --model that made it"
            )
    device = model.vlm.device
    whole = compose.concat(parts, coefficients=coefficients).to(device=device)
    return compose.with_bias(whole, model.bias())


def answer_questions(
    model: LoadedModel,
    questions: Sequence[str],
    adapter: Adapter | None,
    *,
    max_new_tokens: int = 32,
) -> list[Answer]:
    """Ask questions that all use one adapter; None asks the model blind."""
    return answer.answer(model.vlm, questions, adapters=adapter, max_new_tokens=max_new_tokens)
