"""Hypernetworks with random tensors, random adapters, and what an update is by its definition."""

import torch
from torch import Tensor

from video2lora_core.adapter import Adapter, Factors
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule

SHA256 = "a" * 64
DOWN = TargetModule(name="down_proj", d_in=24, d_out=16)
GATE = TargetModule(name="gate_proj", d_in=16, d_out=24)
QUERY = TargetModule(name="q_proj", d_in=16, d_out=16)


def config_of(**changes: object) -> HypernetworkConfig:
    settings: dict[str, object] = {
        "d_model": 16,
        "layers": (0, 2, 3),
        "modules": (DOWN,),
        "rank": 3,
        "scaling": 4.0,
        "d_latent": 16,
        "num_latents": 4,
        "num_cross_blocks": 2,
    }
    return HypernetworkConfig(**{**settings, **changes})  # type: ignore[arg-type]


def random_hypernetwork(config: HypernetworkConfig, seed: int = 0) -> Hypernetwork:
    """One that is not a no-op: norms, scalers and biases away from where they start."""
    generator = torch.Generator().manual_seed(seed)
    hypernetwork = Hypernetwork(config, generator=generator)
    with torch.no_grad():
        for name, parameter in hypernetwork.named_parameters():
            if "norm" in name or "scaler" in name or "bias_" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return hypernetwork


def random_factors(
    *shape: int, rank: int, d_in: int, d_out: int, generator: torch.Generator
) -> Factors:
    """Factors [*shape, rank, d]."""
    return Factors(
        a=torch.randn(*shape, rank, d_in, generator=generator),
        b=torch.randn(*shape, rank, d_out, generator=generator),
    )


def random_adapter(
    seed: int = 0,
    *,
    rank: int = 3,
    layers: tuple[int, ...] = (0, 2),
    modules: tuple[TargetModule, ...] = (DOWN, GATE),
    scaling: float = 4.0,
    sha256: str = SHA256,
) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        m.name: random_factors(
            len(layers), rank=rank, d_in=m.d_in, d_out=m.d_out, generator=generator
        )
        for m in modules
    }
    return Adapter(factors=factors, layers=layers, scaling=scaling, checkpoint_sha256=sha256)


def random_bias(adapter: Adapter, *, rank: int = 2, seed: int = 99) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: random_factors(
            len(adapter.layers),
            rank=rank,
            d_in=f.a.shape[-1],
            d_out=f.b.shape[-1],
            generator=generator,
        )
        for name, f in adapter.factors.items()
    }


def updates(adapter: Adapter) -> dict[str, Tensor]:
    """scaling * B^T A of every module and layer, dense, in float64: [layer, d_out, d_in]."""
    return {
        name: adapter.scaling * f.b.double().mT @ f.a.double()
        for name, f in adapter.factors.items()
    }
