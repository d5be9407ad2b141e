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
from itertools import islice
from typing import Final

from jaxtyping import Float
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors
from video2lora_core.answer import Answer, answer, answer_logits, answers_with_logits
from video2lora_core.compose import bias_only, concat, with_bias
from video2lora_core.errors import UsageError
from video2lora_core.reduction import svd
from video2lora_core.vlm import Vlm

STRATEGIES: Final = ("compose", "route", "route-compose")
DEFAULT_STRATEGY: Final = "route-compose"

# Of 1, 2, 4, 8 and 12 the one that measured best from 8 segments on (docs/composition.md): one is
# too often the wrong one, and twelve drown each other.
NUM_COMPOSED: Final = 4
ROWS_PER_BATCH: Final = 64


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
    (relevance,) = relevances(vlm, [(question, segments)], bias=bias, max_new_tokens=max_new_tokens)
    return relevance


def relevances(
    vlm: Vlm,
    asked: Sequence[tuple[str, Sequence[Adapter]]],
    *,
    bias: Mapping[str, Factors],
    max_new_tokens: int = 32,
) -> list[tuple[float, ...]]:
    """Return each question's segments' relevance: `segment_relevance` of many, in shared batches.

    Args:
        vlm: the answer model.
        asked: questions, each with the segments to weigh, without the bias. Questions about the
            same video should name the same objects, next to each other: they are then read once.
        bias: the checkpoint's bias, which is added once.
        max_new_tokens: most tokens generated.
    """
    rows = [(question, segment) for question, segments in asked for segment in segments]
    found: list[float] = []
    for start in range(0, len(rows), ROWS_PER_BATCH):
        batch = rows[start : start + ROWS_PER_BATCH]
        found += _batch_relevance(vlm, batch, bias=bias, max_new_tokens=max_new_tokens)
    left = iter(found)
    return [tuple(islice(left, len(segments))) for _, segments in asked]


def _batch_relevance(
    vlm: Vlm,
    rows: Sequence[tuple[str, Adapter]],
    *,
    bias: Mapping[str, Factors],
    max_new_tokens: int,
) -> list[float]:
    ready = {id(segment): with_bias(segment, bias) for _, segment in rows}
    questions = [question for question, _ in rows]
    said = answers_with_logits(
        vlm,
        questions,
        adapters=[ready[id(segment)] for _, segment in rows],
        max_new_tokens=max_new_tokens,
    )
    # Segments often agree: what the bias makes of an answer is computed once for each.
    different = sorted(
        {(question, ids) for question, (ids, _) in zip(questions, said, strict=True)}
    )
    first = rows[0][1]
    background = bias_only(
        bias,
        layers=first.layers,
        scaling=first.scaling,
        checkpoint_sha256=first.checkpoint_sha256,
    )
    texts, answers = zip(*different, strict=True)
    alone = answer_logits(vlm, texts, answers, adapters=background)
    without = dict(zip(different, alone, strict=True))
    return [
        _divergence(without[question, ids], logits)
        for question, (ids, logits) in zip(questions, said, strict=True)
    ]


def most_relevant(relevance: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the positions of the `count` largest, in ascending order; ties go to the earlier."""
    order = sorted(range(len(relevance)), key=lambda position: -relevance[position])
    return tuple(sorted(order[:count]))


def _divergence(
    without: Float[Tensor, "token vocab"], with_segment: Float[Tensor, "token vocab"]
) -> float:
    # float64: a divergence is small beside the sums it is left over from. In float32 segments that
    # change little changed places with the batch they happened to be in.
    p, q = without.double().log_softmax(dim=-1), with_segment.double().log_softmax(dim=-1)
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
