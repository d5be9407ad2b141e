"""Reading several layers together gives what each gives alone, however many fit into a call."""

import pytest
import torch

from video2lora_core.factor_stream import FactorStream
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.random_model import random_hypernetwork

LAYERS = (0, 2, 3, 5, 7)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    modules = (
        TargetModule(name="down_proj", d_in=12, d_out=16),
        TargetModule(name="q_proj", d_in=16, d_out=16),
    )
    config = HypernetworkConfig(
        d_model=16,
        layers=LAYERS,
        modules=modules,
        rank=3,
        scaling=2.0,
        d_latent=32,
        num_latents=4,
        num_cross_blocks=2,
    )
    return random_hypernetwork(config, seed=3)


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 100])
def test_any_grouping_of_layers_gives_each_layers_own_factors(
    hypernetwork: Hypernetwork, rows: int, is_masked: bool
) -> None:
    x = torch.randn(2, len(LAYERS), 6, 16, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6]) if is_masked else None
    stream = FactorStream(hypernetwork, mask=mask, rows=rows)
    with torch.no_grad():
        for position, layer in enumerate(LAYERS):
            stream.take(layer, x[:, position])
        found = stream.finish()
        for position in range(len(LAYERS)):
            expected = hypernetwork.layer_factors(position, x[:, position], mask)
            for name, (a, b) in expected.items():
                torch.testing.assert_close(found[name].a[:, position], a, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(found[name].b[:, position], b, atol=1e-5, rtol=1e-5)


def test_a_layer_out_of_its_turn_is_our_own_mistake(hypernetwork: Hypernetwork) -> None:
    with pytest.raises(AssertionError, match="layer 2 came in the place of 0"):
        FactorStream(hypernetwork, mask=None).take(2, torch.zeros(1, 4, 16))
