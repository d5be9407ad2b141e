"""The hypernetwork against the plain loop, over every configuration METHOD.md allows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.adapter_factory import DOWN, GATE, QUERY, config_of, random_hypernetwork
from tests.core.plain_hypernetwork import Plain
from video2lora_core.errors import UsageError
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    TargetModule,
    reference_scaling,
)

# Settings, not configs: beartype draws from `random` when it checks one, which a strategy may not.
settings_of_configs = st.fixed_dictionaries(
    {
        "layers": st.sampled_from([(0,), (1, 7)]),
        "modules": st.sampled_from([(DOWN,), (GATE,), (DOWN, QUERY), (DOWN, GATE, QUERY)]),
        "rank": st.integers(1, 3),
        "d_latent": st.sampled_from([8, 128]),  # 128: projections folded
        "num_latents": st.integers(1, 4),
        "num_cross_blocks": st.integers(1, 3),
        "num_self_per_block": st.integers(0, 2),
        "shared_weights": st.booleans(),
        "num_residual_mlps": st.integers(0, 2),
    }
)


@st.composite
def inputs(draw, config: HypernetworkConfig):
    """Features with no mask, or one that is ragged on the right, on the left, or has holes."""
    num_segments, num_tokens = draw(st.integers(1, 2)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    shape = (num_segments, len(config.layers), num_tokens, config.d_model)
    features = torch.randn(shape, generator=generator)
    if draw(st.booleans()):
        return features, None
    lengths = torch.tensor(
        draw(st.lists(st.integers(0, num_tokens), min_size=num_segments, max_size=num_segments))
    )
    right = torch.arange(num_tokens) < lengths[:, None]
    kinds = {"right": right, "left": right.flip(1), "holes": right ^ (right.roll(1, 1))}
    return features, kinds[draw(st.sampled_from(sorted(kinds)))]


@settings(max_examples=15)
@given(st.data(), settings_of_configs)
def test_factors_equal_the_plain_loop_in_every_configuration(data, changes):
    config = config_of(**changes)
    features, mask = data.draw(inputs(config))
    assert_equals_plain_loop(config, features, mask)


def test_latents_wider_than_two_heads_equal_the_plain_loop_too():
    config = config_of(d_latent=264, num_self_per_block=1)
    features = torch.randn(2, 3, 7, 16, generator=torch.Generator().manual_seed(1))
    assert_equals_plain_loop(config, features, torch.tensor([[0, 1, 1, 1, 1, 1, 1], [1] * 7]))


def assert_equals_plain_loop(config, features, mask):
    hypernetwork = random_hypernetwork(config)
    with torch.no_grad():
        made = hypernetwork(features, mask)
        plain = Plain(hypernetwork.state_dict(), config).factors(features, mask)
    for name, (a, b) in plain.items():
        torch.testing.assert_close(made[name].a, a, atol=1e-5, rtol=0)
        torch.testing.assert_close(made[name].b, b, atol=1e-5, rtol=0)


@settings(max_examples=6)
@given(st.data(), settings_of_configs)
def test_going_layer_by_layer_gives_the_factors_of_one_batch(data, changes):
    config = config_of(**changes)
    hypernetwork = random_hypernetwork(config)
    features, mask = data.draw(inputs(config))
    with torch.no_grad():
        together = hypernetwork(features, mask)
        for position in range(len(config.layers)):
            alone = hypernetwork.layer_factors(position, features[:, position], mask)
            for name, (a, b) in alone.items():
                torch.testing.assert_close(a, together[name].a[:, position], atol=2e-6, rtol=0)
                torch.testing.assert_close(b, together[name].b[:, position], atol=2e-6, rtol=0)


@pytest.mark.parametrize("d_latent", [16, 128])
def test_gradients_equal_those_of_the_plain_loop(d_latent):
    config = config_of(d_latent=d_latent, num_self_per_block=1, modules=(DOWN, QUERY))
    hypernetwork = random_hypernetwork(config)
    features = torch.randn(2, 3, 5, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    parameters = dict(hypernetwork.named_parameters())

    def gradients(factors):
        loss = sum(t.square().sum() for pair in factors for t in pair)
        return torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)

    made = hypernetwork(features, mask)
    plain = Plain(parameters, config).factors(features, mask)
    pairs = [(f.a, f.b) for f in made.values()]
    for name, ours, theirs in zip(
        parameters, gradients(pairs), gradients(plain.values()), strict=True
    ):
        assert (ours is None) == (theirs is None) == name.startswith("bias_"), name
        if ours is not None:
            scale = theirs.abs().max().clamp_min(1e-3).item()
            torch.testing.assert_close(ours, theirs, atol=1e-4 * scale, rtol=0, msg=name)


@pytest.mark.parametrize(("d_latent", "num_tokens"), [(128, 45), (256, 60)])
def test_bf16_is_no_further_from_the_truth_than_plain_bf16(d_latent, num_tokens):
    """1.2 times the plain form's error at most, over several random hypernetworks."""
    config = config_of(d_latent=d_latent, num_cross_blocks=3, layers=(0,), rank=8)
    ours, plain = [], []
    for seed in range(4):
        hypernetwork = random_hypernetwork(config, seed)
        state = hypernetwork.state_dict()
        x = torch.randn(2, num_tokens, 16, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            truth = torch.stack([Plain(state, config, dtype=torch.float64).embed(s) for s in x])
            rounded = Plain(state, config, dtype=torch.bfloat16)
            plain.append(torch.stack([rounded.embed(s) for s in x]) - truth)
            ours.append(hypernetwork.compute_in(torch.bfloat16).embed(x) - truth)
    error_ours, error_plain = (torch.stack(e).square().mean().sqrt() for e in (ours, plain))
    assert error_ours <= 1.2 * error_plain


def test_factors_stay_float32_when_the_perceiver_is_bf16():
    hypernetwork = random_hypernetwork(config_of()).compute_in(torch.bfloat16)
    factors = hypernetwork(torch.randn(1, 3, 4, 16))["down_proj"]
    assert factors.a.dtype == factors.b.dtype == torch.float32
    assert hypernetwork.head.weight.dtype == torch.float32


def test_a_head_in_bf16_is_refused_with_the_way_to_cast():
    with pytest.raises(UsageError, match="compute_in"):
        Hypernetwork(config_of()).to(torch.bfloat16)(torch.randn(1, 3, 4, 16))


def test_padded_positions_may_hold_anything_even_nan():
    hypernetwork = random_hypernetwork(config_of())
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]])
    features = torch.randn(2, 3, 5, 16)
    spoiled = features.masked_fill(~mask[:, None, :, None].bool(), torch.nan)
    clean, made = hypernetwork(features, mask), hypernetwork(spoiled, mask)
    torch.testing.assert_close(made["down_proj"].a, clean["down_proj"].a)
    made["down_proj"].a.sum().backward()
    assert all(p.grad.isfinite().all() for p in hypernetwork.parameters() if p.grad is not None)


def test_at_the_start_every_adapter_is_an_exact_no_op():
    hypernetwork = Hypernetwork(config_of())
    factors = hypernetwork(torch.randn(2, 3, 4, 16))["down_proj"]
    assert factors.b.count_nonzero() == 0
    assert hypernetwork.bias_factors()["down_proj"].b.count_nonzero() == 0
    assert factors.a.count_nonzero() > 0


def test_initialisation_has_the_standard_deviations_of_the_method():
    config = HypernetworkConfig(
        d_model=32,
        layers=(0, 1, 2, 3),
        modules=(TargetModule(name="down_proj", d_in=384, d_out=128),),
        rank=8,
        scaling=reference_scaling(8),
        d_latent=64,
    )
    state = Hypernetwork(config, generator=torch.Generator().manual_seed(0)).state_dict()
    perceiver = "aggregator.perceiver."
    expected = {
        "head.weight": 0.5 / (64 + 512 * 8) ** 0.5,
        "bias_A.down_proj": 0.2 / (384 * 8) ** 0.5,
        perceiver + "encoder.latents_q": 1.0,
        perceiver + "encoder.layers.3.self_attn.q_proj.weight": (1 / 3 / 64) ** 0.5,
        perceiver + "modality_projection.down_proj.weight": (1 / 3 / 128) ** 0.5,
        "layers.0.mlp.5.bias": (1 / 3 / 256) ** 0.5,
    }
    for name, std in expected.items():
        assert state[name].std().item() == pytest.approx(std, rel=0.15), name
        assert abs(state[name].mean().item()) < 0.15 * std, name
    assert all((t == 1).all() for n, t in state.items() if "norm" in n and n.endswith("weight"))
    assert (state["scaler_A.down_proj"] == 1).all()
    assert (state["layers.0.mlp.0.bias"] == 0).all()


def test_initialisation_draws_from_its_generator_alone():
    before = torch.random.get_rng_state()
    first = Hypernetwork(config_of(), generator=torch.Generator().manual_seed(5)).state_dict()
    second = Hypernetwork(config_of(), generator=torch.Generator().manual_seed(5)).state_dict()
    other = Hypernetwork(config_of(), generator=torch.Generator().manual_seed(6)).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_papers_scaling_is_128_at_rank_16():
    assert reference_scaling(16) == 128.0


def test_the_published_shape_has_the_published_number_of_parameters():
    config = HypernetworkConfig(
        d_model=960,
        layers=tuple(range(32)),
        modules=(TargetModule(name="down_proj", d_in=2560, d_out=960),),
        rank=16,
        scaling=128.0,
        num_residual_mlps=1,
    )
    meta = Hypernetwork(config, device="meta")
    assert sum(p.numel() for p in meta.parameters()) == 128_626_176


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "layers must be"),
        ({"layers": (2, 1)}, "layers must be"),
        ({"layers": (-1, 0)}, "layers must be"),
        ({"modules": ()}, "modules must be"),
        ({"modules": (QUERY, DOWN)}, "modules must be"),
        ({"rank": 0}, "must be positive"),
        ({"num_self_per_block": -1}, "must be positive"),
    ],
)
def test_a_config_that_makes_no_hypernetwork_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        config_of(**changes)


def test_features_of_uncovered_layers_are_refused():
    with pytest.raises(UsageError, match="features of 5 layers"):
        Hypernetwork(config_of())(torch.randn(1, 5, 4, 16))
