"""Answers over long videos: which segments a question is about, without looking at any frame.

The sum of very many updates loses detail, and most segments of a long video have nothing to say to
a question. So the question is put to every segment's adapter alone, in one batch (no visual token
is read, which makes it cheap). A segment's relevance to a question is how far its adapter moves
the model away from what the bias alone would say: the KL divergence KL(bias alone || segment),
summed over the positions of the answer that the segment gives. A segment without the thing that
is asked for says what the bias says.

    compose         all segments are summed
    route           the most relevant segment answers alone
    route-compose   the most relevant few are summed: the default, it measured best
                    (docs/composition.md)

The likelihood of an answer alone is no measure of relevance: "no" is said with the same certainty
by every segment that does not show the thing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from jaxtyping import Float
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors
from video2lora_core.answer import Answer, answer, answer_logits
from video2lora_core.compose import bias_only, concat, with_bias
from video2lora_core.errors import UsageError
from video2lora_core.reduction import svd
from video2lora_core.vlm import Vlm

STRATEGIES: Final = ("compose", "route", "route-compose")
DEFAULT_STRATEGY: Final = "route-compose"

# Of 1, 2, 4, 8 and 12 the one that measured best from 8 segments on (docs/composition.md): one is
# too often the wrong one, and twelve drown each other.
NUM_COMPOSED: Final = 4
ROWS_PER_BATCH: Final = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutedAnswer:
    """An answer, and the segments that gave it."""

    answer: Answer
    chosen: tuple[int, ...]
    """Positions of the segments that answered, in order of time."""
    relevance: tuple[float, ...] | None
    """Each segment's relevance in nats; None where nothing had to be chosen."""


def answer_routed(
    vlm: Vlm,
    question: str,
    segments: Sequence[Adapter],
    *,
    bias: Mapping[str, Factors],
    strategy: str = DEFAULT_STRATEGY,
    num_composed: int = NUM_COMPOSED,
    max_rank: int | None = None,
    max_new_tokens: int = 32,
) -> RoutedAnswer:
    """Answer one question from the adapters of a video's segments.

    Args:
        vlm: the answer model.
        question: the question.
        segments: the segments' adapters in order of time, without the bias.
        bias: the checkpoint's bias, which is added once.
        strategy: one of STRATEGIES.
        num_composed: how many segments `route-compose` sums.
        max_rank: reduce a sum to this rank by SVD, the bias aside; None keeps the sum exact.
        max_new_tokens: most tokens generated.

    Raises:
        UsageError: the strategy is unknown, or there is no segment.
        PromptError: the question is empty or holds special tokens.
    """
    num_chosen = _num_chosen(strategy, len(segments), num_composed)
    relevance = None
    chosen = tuple(range(len(segments)))
    if num_chosen < len(segments):
        relevance = segment_relevance(
            vlm, question, segments, bias=bias, max_new_tokens=max_new_tokens
        )
        chosen = most_relevant(relevance, num_chosen)
    composition = concat([segments[position] for position in chosen])
    if max_rank is not None:
        composition, _ = svd(composition, rank=max_rank)
    given = answer(
        vlm, [question], adapters=with_bias(composition, bias), max_new_tokens=max_new_tokens
    )
    return RoutedAnswer(answer=given[0], chosen=chosen, relevance=relevance)


def segment_relevance(
    vlm: Vlm,
    question: str,
    segments: Sequence[Adapter],
    *,
    bias: Mapping[str, Factors],
    max_new_tokens: int = 32,
) -> tuple[float, ...]:
    """Return how much each segment's adapter, alone, has to say to a question, in nats."""
    first = segments[0]
    background = bias_only(
        bias,
        layers=first.layers,
        scaling=first.scaling,
        checkpoint_sha256=first.checkpoint_sha256,
    )
    relevance: list[float] = []
    for start in range(0, len(segments), ROWS_PER_BATCH):
        batch = [with_bias(adapter, bias) for adapter in segments[start : start + ROWS_PER_BATCH]]
        questions = [question] * len(batch)
        said = answer(vlm, questions, adapters=batch, max_new_tokens=max_new_tokens)
        given = [one.new_ids for one in said]
        # Segments often agree: what the bias makes of an answer is computed once for each.
        different = sorted(set(given))
        alone = answer_logits(vlm, [question] * len(different), different, adapters=background)
        without = dict(zip(different, alone, strict=True))
        with_segment = answer_logits(vlm, questions, given, adapters=batch)
        relevance += [
            _divergence(without[ids], logits)
            for ids, logits in zip(given, with_segment, strict=True)
        ]
    return tuple(relevance)


def most_relevant(relevance: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the positions of the `count` largest, in ascending order; ties go to the earlier."""
    order = sorted(range(len(relevance)), key=lambda position: -relevance[position])
    return tuple(sorted(order[:count]))


def _divergence(
    without: Float[Tensor, "token vocab"], with_segment: Float[Tensor, "token vocab"]
) -> float:
    p, q = without.float().log_softmax(dim=-1), with_segment.float().log_softmax(dim=-1)
    return float((p.exp() * (p - q)).sum())


def _num_chosen(strategy: str, num_segments: int, num_composed: int) -> int:
    if strategy not in STRATEGIES:
        raise UsageError(
            f"strategy {strategy!r}: unknown (expected one of {', '.join(STRATEGIES)})"
        )
    if not num_segments or num_composed < 1:
        raise UsageError(
            f"answer: {num_segments} segments, {num_composed} of them to be composed (expected at "
            "least 1 of each); give adapters"
        )
    return {"compose": num_segments, "route": 1, "route-compose": num_composed}[strategy]
