"""Routing: relevance is the divergence it says it is, and the strategies choose by it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.test_answer import QUESTIONS, random_adapter
from tests.core.tiny_vlm import load_tiny_vlm
from video2lora_core import routing
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.answer import answer, answer_logits, answers_with_logits
from video2lora_core.compose import bias_only, concat, with_bias
from video2lora_core.errors import UsageError
from video2lora_core.inject import adapted
from video2lora_core.routing import answer_routed, most_relevant, relevances, segment_relevance
from video2lora_core.vlm import Vlm, query_ids

QUESTION = QUESTIONS[0]
BIAS = random_adapter(2, seed=99, has_bias=False).factors


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def segments() -> list[Adapter]:
    return [random_adapter(3, seed=seed, has_bias=False) for seed in range(5)]


def scaled(adapter: Adapter, factor: float) -> Adapter:
    factors = {name: Factors(a=f.a, b=f.b * factor) for name, f in adapter.factors.items()}
    return replace(adapter, factors=factors)


def background(like: Adapter) -> Adapter:
    return bias_only(
        BIAS,
        layers=like.layers,
        scaling=like.scaling,
        checkpoint_sha256=like.checkpoint_sha256,
    )


def plain_log_probs(vlm: Vlm, adapter: Adapter, ids: list[int]) -> torch.Tensor:
    with torch.no_grad(), adapted(vlm.model, adapter):
        return vlm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)


def plain_relevance(vlm: Vlm, segment: Adapter) -> float:
    """The definition, one segment and one token at a time, with transformers' own generate."""
    injected = with_bias(segment, BIAS)
    prompt = query_ids(vlm, QUESTION)
    with torch.no_grad(), adapted(vlm.model, injected):
        generated = vlm.model.generate(
            input_ids=torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=6,
            eos_token_id=vlm.end_token_id,
            pad_token_id=0,
        )
    new = generated[0].tolist()[len(prompt) :]
    new = new[: new.index(vlm.end_token_id)] if vlm.end_token_id in new else new
    ids = [*prompt, *new, vlm.end_token_id]
    with_segment = plain_log_probs(vlm, injected, ids)
    alone = plain_log_probs(vlm, background(segment), ids)
    total = 0.0
    for position in range(len(prompt) - 1, len(ids) - 1):
        for p, q in zip(alone[position].tolist(), with_segment[position].tolist(), strict=True):
            total += torch.tensor(p).exp().item() * (p - q)
    return total


def test_relevance_is_the_divergence_from_the_bias_alone(vlm: Vlm, segments: list[Adapter]) -> None:
    expected = [plain_relevance(vlm, segment) for segment in segments]
    found = segment_relevance(vlm, QUESTION, segments, bias=BIAS, max_new_tokens=6)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert min(found) > 0.001


def test_a_segment_that_changes_nothing_has_no_relevance(vlm: Vlm, segments: list[Adapter]) -> None:
    silent = [scaled(segments[0], 0.0), segments[1]]
    found = segment_relevance(vlm, QUESTION, silent, bias=BIAS)
    assert abs(found[0]) < 1e-6 < found[1]


def test_batches_of_segments_give_what_one_by_one_gives(
    vlm: Vlm, segments: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = segment_relevance(vlm, QUESTION, segments, bias=BIAS, max_new_tokens=4)
    monkeypatch.setattr(routing, "ROWS_PER_BATCH", 2)
    assert segment_relevance(vlm, QUESTION, segments, bias=BIAS, max_new_tokens=4) == pytest.approx(
        whole, rel=1e-3, abs=1e-5
    )


def test_questions_weighed_together_are_weighed_as_alone(
    vlm: Vlm, segments: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [(QUESTIONS[0], segments), (QUESTIONS[1], segments), (QUESTIONS[2], segments[1:3])]
    monkeypatch.setattr(routing, "ROWS_PER_BATCH", 7)
    found = relevances(vlm, asked, bias=BIAS, max_new_tokens=5)
    for (question, of_video), relevance in zip(asked, found, strict=True):
        alone = segment_relevance(vlm, question, of_video, bias=BIAS, max_new_tokens=5)
        assert relevance == pytest.approx(alone, rel=1e-3, abs=1e-5)
    assert relevances(vlm, [], bias=BIAS) == []


def test_weighing_reads_each_prompt_once_with_its_segment(
    vlm: Vlm, segments: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And once more, for each different answer, with the bias alone."""
    read = []
    watching = vlm.model.model.text_model.layers[0].register_forward_hook(
        lambda module, args, output: read.append(tuple(args[0].shape[:2]))
    )
    try:
        segment_relevance(vlm, QUESTION, segments, bias=BIAS, max_new_tokens=4)
    finally:
        watching.remove()
    prompts = [rows for rows, num_tokens in read if num_tokens > 1]
    assert prompts[0] == len(segments)
    assert len(prompts) == 2
    assert prompts[1] <= len(segments)


@pytest.mark.parametrize("num_new", [1, 3, 12])
def test_logits_taken_while_answering_are_those_of_the_given_answers(
    vlm: Vlm, num_new: int
) -> None:
    """In rows that end early, whatever is dropped, and in rows that reach the limit."""
    first = answer(vlm, list(QUESTIONS), adapters=random_adapter(4, seed=1), max_new_tokens=12)
    end = vlm.tokenizer.convert_ids_to_tokens(first[0].new_ids[1])
    ending = replace(vlm, layout=replace(vlm.layout, end_token=end))
    adapters = [random_adapter(rank, seed=rank) for rank in (4, 1, 6)]
    found = answers_with_logits(ending, list(QUESTIONS), adapters=adapters, max_new_tokens=num_new)
    said = answer(ending, list(QUESTIONS), adapters=adapters, max_new_tokens=num_new)
    assert [ids for ids, _ in found] == [one.new_ids for one in said]
    wanted = answer_logits(ending, list(QUESTIONS), [ids for ids, _ in found], adapters=adapters)
    for (_, logits), expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_logits_of_given_answers_do_not_depend_on_the_rest_of_the_batch(vlm: Vlm) -> None:
    answers = [(5, 6, 7), (), (8,)]
    together = answer_logits(vlm, list(QUESTIONS), answers)
    for question, given_ids, logits in zip(QUESTIONS, answers, together, strict=True):
        (alone,) = answer_logits(vlm, [question], [given_ids])
        assert logits.shape[0] == len(given_ids) + 1
        torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


def test_the_logits_of_an_answer_are_largest_at_what_was_generated(vlm: Vlm) -> None:
    adapter = random_adapter(4, seed=1)
    (said,) = answer(vlm, [QUESTION], adapters=adapter, max_new_tokens=5)
    (logits,) = answer_logits(vlm, [QUESTION], [said.new_ids], adapters=adapter)
    assert tuple(logits.argmax(dim=-1).tolist())[: len(said.new_ids)] == said.new_ids


def test_route_asks_the_most_relevant_segment_alone(vlm: Vlm, segments: list[Adapter]) -> None:
    found = answer_routed(vlm, QUESTION, segments, bias=BIAS, strategy="route", max_new_tokens=6)
    assert found.relevance is not None
    best = max(range(len(segments)), key=lambda place: found.relevance[place])
    expected = answer(vlm, [QUESTION], adapters=with_bias(segments[best], BIAS), max_new_tokens=6)
    assert found.chosen == (best,)
    assert found.answer.new_ids == expected[0].new_ids


def test_route_compose_sums_the_most_relevant_in_order_of_time(
    vlm: Vlm, segments: list[Adapter]
) -> None:
    found = answer_routed(vlm, QUESTION, segments, bias=BIAS, num_composed=2, max_new_tokens=6)
    assert found.relevance is not None
    assert found.chosen == most_relevant(found.relevance, 2)
    composed = with_bias(concat([segments[place] for place in found.chosen]), BIAS)
    expected = answer(vlm, [QUESTION], adapters=composed, max_new_tokens=6)
    assert found.answer.new_ids == expected[0].new_ids


@pytest.mark.parametrize("strategy", ["compose", "route-compose"])
def test_few_segments_are_summed_without_looking_at_each(
    vlm: Vlm, segments: list[Adapter], strategy: str
) -> None:
    found = answer_routed(
        vlm, QUESTION, segments, bias=BIAS, strategy=strategy, num_composed=5, max_new_tokens=6
    )
    expected = answer(vlm, [QUESTION], adapters=with_bias(concat(segments), BIAS), max_new_tokens=6)
    assert found.relevance is None
    assert found.chosen == (0, 1, 2, 3, 4)
    assert found.answer.new_ids == expected[0].new_ids


def test_a_rank_budget_that_is_large_enough_changes_nothing(
    vlm: Vlm, segments: list[Adapter]
) -> None:
    exact = answer_routed(vlm, QUESTION, segments, bias=BIAS, num_composed=5, max_new_tokens=6)
    reduced = answer_routed(
        vlm, QUESTION, segments, bias=BIAS, num_composed=5, max_rank=15, max_new_tokens=6
    )
    assert reduced.answer.new_ids == exact.answer.new_ids


def test_an_unknown_strategy_and_no_segments_are_refused(vlm: Vlm, segments: list[Adapter]) -> None:
    with pytest.raises(UsageError, match="expected one of compose, route, route-compose"):
        answer_routed(vlm, QUESTION, segments, bias=BIAS, strategy="guess")
    with pytest.raises(UsageError, match="0 segments"):
        answer_routed(vlm, QUESTION, [], bias=BIAS)
    with pytest.raises(UsageError, match="0 of them"):
        answer_routed(vlm, QUESTION, segments, bias=BIAS, num_composed=0)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=12).flatmap(
        lambda values: st.tuples(st.just(values), st.integers(1, len(values)))
    )
)
def test_no_segment_left_out_is_more_relevant_than_one_chosen(
    drawn: tuple[list[float], int],
) -> None:
    values, count = drawn
    chosen = most_relevant(values, count)
    assert len(set(chosen)) == count
    assert list(chosen) == sorted(chosen)
    out = [value for place, value in enumerate(values) if place not in chosen]
    assert not out or max(out) <= min(values[place] for place in chosen)
