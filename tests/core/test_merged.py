"""Merged weights: what the hooks compute, and nothing left of it afterwards."""

from dataclasses import replace

import pytest
import torch

from tests.core.adapter_factory import random_adapter as factors_of
from tests.core.test_answer import ADAPTERS, QUESTIONS, random_adapter
from tests.core.tiny_vlm import D_FF, D_MODEL, load_tiny_vlm
from video2lora_core.adapter import Adapter
from video2lora_core.answer import answer, merged
from video2lora_core.errors import AdapterError, ModelMismatchError, UsageError
from video2lora_core.hypernetwork import TargetModule
from video2lora_core.inject import MergedWeight, adapted, has_row_adapters, is_injected
from video2lora_core.vlm import Vlm

IDS = torch.tensor([[2, 9, 10, 11], [2, 12, 13, 9]])
MODULES = (
    TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL),
    TargetModule(name="q_proj", d_in=D_MODEL, d_out=D_MODEL),
)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture
def adapter() -> Adapter:
    return replace(factors_of(0, rank=3, layers=(0, 2, 3), modules=MODULES), scaling=0.02)


def logits(vlm: Vlm) -> torch.Tensor:
    with torch.no_grad():
        return vlm.model(input_ids=IDS).logits


def state(vlm: Vlm) -> dict[str, tuple[int, torch.Tensor]]:
    """Every weight, and where it lies."""
    weights = vlm.model.state_dict(keep_vars=True)
    return {name: (w.data_ptr(), w.detach().clone()) for name, w in weights.items()}


def assert_as(vlm: Vlm, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    now = state(vlm)
    assert list(now) == list(before)
    for name, (place, weight) in now.items():
        assert place == before[name][0], name
        assert torch.equal(weight, before[name][1]), name


def test_merged_weights_give_the_injected_logits_and_leave_the_model_bit_equal(
    vlm: Vlm, adapter: Adapter
):
    before, plain = state(vlm), logits(vlm)
    with adapted(vlm.model, adapter):
        injected = logits(vlm)
    with merged(vlm, adapter):
        found = logits(vlm)
        assert sum(isinstance(p, MergedWeight) for p in vlm.model.parameters()) == 6
        originals = {place for place, _ in before.values()}
        kept = {p.data_ptr() for p in vlm.model.parameters() if not isinstance(p, MergedWeight)}
        assert kept < originals
    torch.testing.assert_close(found, injected, atol=1e-5, rtol=0)
    assert (found - plain).abs().max() > 0.01
    assert torch.equal(logits(vlm), plain)
    assert_as(vlm, before)


def test_an_exception_inside_the_block_gives_the_weights_back(vlm: Vlm, adapter: Adapter):
    before = state(vlm)
    with pytest.raises(ZeroDivisionError), merged(vlm, adapter):
        1 / 0  # noqa: B018 (the exception is the test)
    assert_as(vlm, before)


def test_an_exception_while_merging_gives_the_weights_back(
    vlm: Vlm, adapter: Adapter, monkeypatch: pytest.MonkeyPatch
):
    before = state(vlm)
    addmm, calls = torch.addmm, []

    def refuse_the_third(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError
        return addmm(*args, **kwargs)

    monkeypatch.setattr(torch, "addmm", refuse_the_third)
    with pytest.raises(MemoryError), merged(vlm, adapter):
        pass
    monkeypatch.undo()
    assert_as(vlm, before)


def test_the_sum_is_taken_in_float32_and_rounded_once(vlm: Vlm, adapter: Adapter):
    weights = {
        (layer, name): linear_of(vlm, layer, name).weight.detach().clone()
        for layer in adapter.layers
        for name in adapter.factors
    }
    vlm.model.to(torch.bfloat16)
    try:
        with merged(vlm, adapter):
            for position, layer in enumerate(adapter.layers):
                for name, f in adapter.factors.items():
                    update = adapter.scaling * f.b[position].double().mT @ f.a[position].double()
                    half = weights[layer, name].to(torch.bfloat16)
                    exact = (half.double() + update).to(torch.bfloat16)
                    found = linear_of(vlm, layer, name).weight
                    # float32's own rounding may fall on the other side of a tie, very rarely.
                    assert (found != exact).float().mean() < 1e-3
                    naive = half + update.to(torch.bfloat16)
                    assert (naive != exact).float().mean() > 0.01
    finally:
        vlm.model.to(torch.float32)
        for (layer, name), weight in weights.items():
            linear_of(vlm, layer, name).weight.data = weight


def linear_of(vlm: Vlm, layer: int, name: str) -> torch.nn.Linear:
    block = vlm.model.model.text_model.layers[layer]
    return getattr(block.self_attn if name == "q_proj" else block.mlp, name)


def test_injections_do_not_nest_in_either_order(vlm: Vlm, adapter: Adapter):
    both = (lambda: adapted(vlm.model, adapter), lambda: merged(vlm, adapter))
    for outer in both:
        for inner in both:
            with outer():
                expected = logits(vlm)
                with pytest.raises(UsageError, match="injected already"), inner():
                    pass
                assert torch.equal(logits(vlm), expected)
                assert is_injected(vlm.model)
    assert not is_injected(vlm.model)
    assert not has_row_adapters(vlm.model)


def test_merged_answers_are_the_injected_ones_in_float32(vlm: Vlm):
    for adapter in ADAPTERS:
        injected = answer(vlm, QUESTIONS, adapters=adapter, max_new_tokens=8)
        found = answer(vlm, QUESTIONS, adapters=adapter, max_new_tokens=8, is_merged=True)
        with merged(vlm, adapter):
            kept = answer(vlm, QUESTIONS, max_new_tokens=8)
        ids = [one.new_ids for one in injected]
        assert [one.new_ids for one in found] == [one.new_ids for one in kept] == ids


def test_only_one_adapter_with_its_bias_is_merged(vlm: Vlm):
    with pytest.raises(UsageError, match="found none"):
        answer(vlm, QUESTIONS, is_merged=True)
    with pytest.raises(UsageError, match="found one for each question"):
        answer(vlm, QUESTIONS, adapters=ADAPTERS, is_merged=True)
    with pytest.raises(AdapterError, match="lack the bias"):
        answer(vlm, QUESTIONS, adapters=random_adapter(2, seed=0, has_bias=False), is_merged=True)
    with pytest.raises(ModelMismatchError), merged(vlm, random_adapter(2, seed=0, d_in=D_FF + 1)):
        pass
