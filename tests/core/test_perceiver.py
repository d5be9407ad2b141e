"""The perceiver's own promises: no keys of the context, shared tensors, released names."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.core.adapter_factory import DOWN, QUERY, config_of, random_hypernetwork
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.perceiver import NUM_HEADS, Resampler, RmsNorm, unit_rms


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements any operation wrote."""

    def __init__(self):
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.num_elements = max([self.num_elements, *sizes])
        return out


def resampler(d_latent, num_latents=2, **blocks):
    made = Resampler(d_latent, num_latents=num_latents, num_cross_blocks=2, **blocks)
    torch.nn.init.normal_(made.latents_q, generator=torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize("d_latent", [16, 128, 256])
def test_keys_and_values_of_the_context_are_never_formed(d_latent):
    rows, num_tokens, num_latents = 2, 300, 2
    context = torch.randn(rows, num_tokens, d_latent)
    with torch.no_grad(), LargestTensor() as largest:
        resampler(d_latent, num_latents)(context, None)
    scores = NUM_HEADS * num_latents * (num_tokens + num_latents)
    weights = 4 * d_latent * max(d_latent, 512)
    assert largest.num_elements <= max(rows * num_tokens * d_latent, rows * scores, weights)


def test_queries_of_the_first_block_are_made_once_for_all_rows():
    made = resampler(16)
    shapes = []
    projection = made.layers[0].self_attn.q_proj
    projection.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape)))
    made(torch.randn(5, 7, 16), None)
    assert shapes == [(1, 2, 2048)]


def test_a_row_without_any_real_token_sees_its_own_latents_only():
    made = resampler(16)
    context = torch.randn(2, 3, 16)
    mask = torch.tensor([[True, True, True], [False, False, False]])
    out = made(context, mask)
    assert out.isfinite().all()
    other = made(torch.randn(2, 3, 16), mask)
    torch.testing.assert_close(out[1], other[1])


def test_rms_norm_uses_the_methods_epsilon_in_float32():
    x = torch.full((1, 4), 1e-3)
    expected = 1e-3 / (1e-6 + 1e-6) ** 0.5
    torch.testing.assert_close(RmsNorm(4)(x), torch.full((1, 4), expected))
    assert unit_rms(x.bfloat16()).dtype == torch.bfloat16


def test_shared_weights_tie_later_cross_layers_and_every_blocks_self_layers():
    made = Resampler(
        8, num_latents=2, num_cross_blocks=3, num_self_per_block=2, shared_weights=True
    )
    layers = list(made.layers)
    assert [layer.is_cross for layer in layers] == [True, False, False] * 3
    assert layers[3] is layers[6]
    assert layers[0] is not layers[3]
    assert layers[1] is layers[4] is layers[7]
    assert layers[2] is layers[5] is layers[8]
    assert layers[1] is not layers[2]


def test_shared_tensors_stand_under_every_index_of_the_state_dict():
    config = config_of(num_cross_blocks=3, num_self_per_block=1, shared_weights=True)
    hypernetwork = random_hypernetwork(config)
    state = hypernetwork.state_dict()
    prefix = "aggregator.perceiver.encoder.layers."
    assert {key.removeprefix(prefix)[0] for key in state if key.startswith(prefix)} == set("012345")
    name = "self_attn.q_proj.weight"
    assert torch.equal(state[f"{prefix}2.{name}"], state[f"{prefix}4.{name}"])
    loaded = Hypernetwork(config)
    loaded.load_state_dict(state, strict=True)
    x = torch.randn(1, 3, 4, 16)
    assert torch.equal(loaded(x)["down_proj"].a, hypernetwork(x)["down_proj"].a)


def test_parameter_names_and_shapes_are_the_released_table():
    config = config_of(modules=(DOWN, QUERY), num_self_per_block=1, num_cross_blocks=1)
    shapes = {
        k: tuple(v.shape) for k, v in Hypernetwork(config, device="meta").state_dict().items()
    }
    perceiver = "aggregator.perceiver."
    expected = {
        perceiver + "modality_projection.gate_proj.weight": (64, 16),
        perceiver + "modality_projection.down_proj.weight": (16, 64),
        perceiver + "encoder.latents_q": (4, 16),
        perceiver + "decoder.latents_q": (6, 16),
        perceiver + "encoder.layers.0.input_context_layernorm.weight": (16,),
        perceiver + "encoder.layers.1.self_attn.k_proj.weight": (512, 16),
        perceiver + "decoder.layers.0.self_attn.o_proj.weight": (16, 2048),
        perceiver + "decoder.layernorm.weight": (16,),
        "layers.0.mlp.6.bias": (16,),
        "bias_A.q_proj": (3, 3, 16),
        "scaler_B.down_proj": (1, 3, 3, 1),
        "head.weight": (3, 2, 16, 40),
    }
    assert expected.items() <= shapes.items()
    assert perceiver + "encoder.layers.1.input_context_layernorm.weight" not in shapes
