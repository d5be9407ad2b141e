"""What a question costs: only the rank counts, whatever the length of the video."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.core.test_answer import QUESTIONS, random_adapter
from tests.core.tiny_vlm import load_tiny_vlm
from video2lora_core import answer as answering
from video2lora_core.adapter import Adapter
from video2lora_core.answer import Answer, answer, answer_logits, merged
from video2lora_core.compose import concat
from video2lora_core.inject import is_injected
from video2lora_core.reduction import svd
from video2lora_core.vlm import Vlm

NUM_SEGMENTS = (1, 3, 12)
RANK = 4


class OpCounter(TorchDispatchMode):
    """Counts every operation that reaches the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class ProductShapes(TorchDispatchMode):
    """Notes the shape of every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
            self.shapes.append(tuple(output.shape))
        return output


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def video(num_segments: int) -> Adapter:
    """The exact sum of a video's segments, RANK ranks each."""
    parts = [random_adapter(RANK, seed=seed, has_bias=False) for seed in range(num_segments)]
    return concat(parts)


def cost(vlm: Vlm, adapter: Adapter) -> tuple[int, int, Answer]:
    """Operations, floating point operations and the answer of one question."""
    with FlopCounterMode(display=False) as flops, OpCounter() as ops:
        (said,) = answer(vlm, QUESTIONS[:1], adapters=adapter, max_new_tokens=3)
    return ops.count, flops.get_total_flops(), said


def test_at_a_fixed_rank_a_question_costs_the_same_for_every_length_of_video(vlm: Vlm):
    found = []
    for num_segments in NUM_SEGMENTS:
        reduced, _ = svd(video(num_segments), rank=RANK)
        found.append(cost(vlm, replace(reduced, has_bias=True)))
    assert len({(ops, flops) for ops, flops, _ in found}) == 1
    assert {said.num_visual_tokens for *_, said in found} == {0}
    assert len({said.num_prompt_tokens for *_, said in found}) == 1
    assert len({said.new_ids for *_, said in found}) > 1


def test_without_a_fixed_rank_only_the_rank_is_paid_for(vlm: Vlm):
    found = [cost(vlm, replace(video(count), has_bias=True)) for count in NUM_SEGMENTS]
    assert len({ops for ops, _, _ in found}) == 1
    (_, one, said), (_, three, _), (_, twelve, _) = found
    assert (three - one) * 11 == (twelve - one) * 2
    # Each rank is read against every token once: 2 * (d_in + d_out) operations a layer.
    num_tokens = said.num_prompt_tokens + 2
    factors = video(1).factors["down_proj"]
    widths = factors.a.shape[-1] + factors.b.shape[-1]
    assert three - one == 2 * RANK * num_tokens * 2 * widths * len(factors.a)
    assert {said.num_visual_tokens for *_, said in found} == {0}


@pytest.mark.parametrize("num_rows", [1, 5])
def test_a_forward_reads_the_vocabulary_once_for_all_rows(vlm: Vlm, num_rows: int):
    vocab_size = vlm.model.config.text_config.vocab_size
    with ProductShapes() as products:
        said = answer(vlm, [*QUESTIONS, *QUESTIONS][:num_rows], max_new_tokens=3)
    shapes = [shape for shape in products.shapes if shape[-1] == vocab_size]
    assert shapes == [(num_rows, vocab_size)] * min(3, 1 + max(o.num_new_tokens for o in said))


def test_logits_of_given_answers_are_computed_where_they_are_wanted(vlm: Vlm):
    vocab_size = vlm.model.config.text_config.vocab_size
    with ProductShapes() as products:
        answer_logits(vlm, QUESTIONS[:2], [(9, 10, 11, 12), (9,)])
    assert [s for s in products.shapes if s[-1] == vocab_size] == [(5 + 2, vocab_size)]


def test_merged_weights_cost_a_token_what_no_adapter_costs(vlm: Vlm):
    with FlopCounterMode(display=False) as blind:
        answer(vlm, QUESTIONS[:1], max_new_tokens=3)
    with merged(vlm, replace(video(12), has_bias=True)), FlopCounterMode(display=False) as found:
        answer(vlm, QUESTIONS[:1], max_new_tokens=3)
    assert found.get_total_flops() == blind.get_total_flops()


def test_the_clock_starts_when_the_adapter_is_in_and_stops_at_the_first_id_and_the_last(
    vlm: Vlm, monkeypatch: pytest.MonkeyPatch
):
    clock, was_injected = answering.clock, []

    def watched(of: Vlm) -> float:
        was_injected.append(is_injected(of.model))
        return clock(of)

    monkeypatch.setattr(answering, "clock", watched)
    adapters = [random_adapter(rank, seed=rank) for rank in (1, 5)]
    for is_merged in (False, True):
        (one,) = answer(
            vlm, QUESTIONS[:1], adapters=adapters[0], max_new_tokens=5, is_merged=is_merged
        )
        assert 0 < one.time_to_first_token_s < one.answer_s
    both = answer(vlm, QUESTIONS[:2], adapters=adapters, max_new_tokens=5)
    assert len({(said.time_to_first_token_s, said.answer_s) for said in both}) == 1
    assert was_injected == [True, True, True]
    (only,) = answer(vlm, QUESTIONS[:1], max_new_tokens=1)
    assert was_injected[-1] is False
    assert only.answer_s >= only.time_to_first_token_s
    assert torch.is_grad_enabled()
