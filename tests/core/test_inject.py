"""Injection: the update is exact, reversible, one per row, and refused where it does not fit."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import SmolVLMForConditionalGeneration

from tests.core.adapter_factory import random_adapter
from tests.core.tiny_vlm import D_FF, D_MODEL, NUM_LAYERS, tiny_config
from video2lora_core.compose import stack
from video2lora_core.errors import ModelMismatchError, UsageError
from video2lora_core.hypernetwork import TargetModule
from video2lora_core.inject import adapted, decoder_layers

DOWN = TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL)
UP = TargetModule(name="up_proj", d_in=D_MODEL, d_out=D_FF)
QUERY = TargetModule(name="q_proj", d_in=D_MODEL, d_out=D_MODEL)
IDS = torch.tensor([[2, 9, 10, 11], [2, 12, 13, 9], [2, 14, 9, 10]])


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SmolVLMForConditionalGeneration(tiny_config(vocab_size=64, image_token_id=6))
    return made.eval().requires_grad_(False)


def small_adapter(seed=0, *, rank=3, layers=(0, 2), modules=(DOWN,)):
    """Of a size that changes the logits without drowning them."""
    adapter = random_adapter(seed, rank=rank, layers=layers, modules=modules)
    return replace(adapter, scaling=0.02)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def merged(model, adapter):
    """The same model with scaling * B^T A added to its weights."""
    twin = SmolVLMForConditionalGeneration(model.config).eval()
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        for position, layer in enumerate(adapter.layers):
            block = twin.model.text_model.layers[layer]
            for name, f in adapter.factors.items():
                linear = getattr(block.self_attn if name == "q_proj" else block.mlp, name)
                linear.weight += adapter.scaling * f.b[position].T @ f.a[position]
    return twin


def test_an_injected_adapter_equals_the_dense_merged_weights(model):
    adapter = small_adapter(modules=(DOWN, QUERY, UP), layers=(0, 1, 3))
    with adapted(model, adapter):
        injected = logits(model)
    torch.testing.assert_close(injected, logits(merged(model, adapter)), atol=1e-5, rtol=0)
    assert (injected - logits(model)).abs().max() > 0.05


# peft 0.21 reads an attribute that transformers 5 deprecates.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_injected_adapter_equals_peft_with_alpha_scaling_times_rank(model):
    adapter = small_adapter(modules=(DOWN,), layers=(0, 2))
    with adapted(model, adapter):
        injected = logits(model)
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.scaling * adapter.rank,
        target_modules=r".*text_model\.layers\.(0|2)\.mlp\.down_proj",
    )
    peft_model = get_peft_model(model, config).eval()
    for position, layer in enumerate(adapter.layers):
        linear = peft_model.base_model.model.model.text_model.layers[layer].mlp.down_proj
        linear.lora_A["default"].weight.data = adapter.factors["down_proj"].a[position]
        linear.lora_B["default"].weight.data = adapter.factors["down_proj"].b[position].T
    torch.testing.assert_close(injected, logits(peft_model), atol=1e-5, rtol=0)


def test_each_batch_row_uses_its_own_adapter(model):
    adapters = [small_adapter(seed, rank=rank) for seed, rank in enumerate((1, 4, 2))]
    with adapted(model, stack(adapters)):
        together = logits(model)
    for row, adapter in enumerate(adapters):
        with adapted(model, adapter):
            alone = logits(model, IDS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_one_adapter_serves_every_row(model):
    adapter = small_adapter()
    with adapted(model, adapter):
        broadcast = logits(model)
    with adapted(model, stack([adapter] * 3)):
        torch.testing.assert_close(logits(model), broadcast, atol=1e-5, rtol=0)


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


def test_the_model_is_bit_equal_before_and_after(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = logits(model)
    with adapted(model, small_adapter()):
        assert len(hooks_of(model)) == 2
    assert hooks_of(model) == []
    assert torch.equal(logits(model), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_an_exception_inside_the_block_leaves_no_hook(model):
    with pytest.raises(ZeroDivisionError), adapted(model, small_adapter()):
        1 / 0  # noqa: B018 (the exception is the test)
    assert hooks_of(model) == []


def test_an_exception_while_injecting_leaves_no_hook(model, monkeypatch):
    adapter = small_adapter()
    last = model.model.text_model.layers[2].mlp.down_proj

    def refuse(hook):
        raise MemoryError

    monkeypatch.setattr(last, "register_forward_hook", refuse)
    with pytest.raises(MemoryError), adapted(model, adapter):
        pass
    assert hooks_of(model) == []


def test_nested_injection_is_refused_and_the_outer_one_stays(model):
    outer = small_adapter(0)
    with adapted(model, outer):
        expected = logits(model)
        with (
            pytest.raises(UsageError, match="an adapter injected already"),
            adapted(model, small_adapter(1, layers=(3,))),
        ):
            pass
        assert torch.equal(logits(model), expected)
    assert hooks_of(model) == []


def test_a_model_of_other_widths_is_refused_with_both_shapes(model):
    wide = TargetModule(name="down_proj", d_in=2 * D_FF, d_out=D_MODEL)
    match = r"layer 0 down_proj is 96 -> 64 in the model, 192 -> 64 in the adapter"
    with (
        pytest.raises(ModelMismatchError, match=match),
        adapted(model, small_adapter(modules=(wide,))),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"layers": (0, NUM_LAYERS)}, "decoder layer 4 wanted, the model has layers 0 to 3"),
        (
            {"modules": (TargetModule(name="fc1", d_in=64, d_out=64),)},
            "layer 0 has no linear fc1 in its mlp or self_attn",
        ),
    ],
)
def test_a_model_without_the_layer_or_module_is_refused(model, changes, match):
    with pytest.raises(ModelMismatchError, match=match), adapted(model, small_adapter(**changes)):
        pass
    assert hooks_of(model) == []


def test_a_model_of_another_architecture_is_refused():
    with pytest.raises(ModelMismatchError, match=r"Linear has no model\.text_model\.layers"):
        decoder_layers(torch.nn.Linear(1, 1))


def test_input_rows_must_match_the_adapters(model):
    batch = stack([small_adapter(0), small_adapter(1)])
    with pytest.raises(UsageError, match="3 input rows for 2 adapters"), adapted(model, batch):
        logits(model)
    assert hooks_of(model) == []


def test_gradients_reach_the_factors_only(model):
    batch = stack([small_adapter(seed) for seed in range(3)])
    a = batch.factors["down_proj"].a.requires_grad_()
    b = batch.factors["down_proj"].b.requires_grad_()
    with adapted(model, batch):
        model(input_ids=IDS).logits.square().mean().backward()
    assert a.grad.abs().amax((1, 2, 3)).min() > 0
    assert b.grad.abs().amax((1, 2, 3)).min() > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_bf16_model_takes_float32_factors(model):
    adapter = small_adapter()
    half = merged(model, adapter).to(torch.bfloat16)
    model.to(torch.bfloat16)
    with adapted(model, adapter):
        injected = logits(model)
    assert injected.dtype == torch.bfloat16
    assert (injected - logits(half)).abs().max() < 0.1
