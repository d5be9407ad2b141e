"""The hypernetwork: features of a segment in, the factors of its adapter out (METHOD.md).

One perceiver serves all decoder layers; layers differ only by their features and by their slice of
the head. Parameter names are the released checkpoints' keys, so their tensors load with
strict=True. The perceiver runs in the dtype of its own parameters; residual MLP, normalisation,
head and factors are always float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from video2lora_core.adapter import Factors
from video2lora_core.errors import UsageError
from video2lora_core.perceiver import WIDENING, Perceiver, Resampler, RmsNorm

NORM_EPS = 1e-12  # guards a zero embedding only; the reference has none

LayerFactors = tuple[Float[Tensor, "segment rank d_in"], Float[Tensor, "segment rank d_out"]]


def reference_scaling(rank: int) -> float:
    """Return the paper's multiplier 2 r^1.5, used directly (not divided by the rank)."""
    return float(2.0 * rank**1.5)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetModule:
    """A linear layer of every covered decoder block that gets an update."""

    name: str
    """Its name inside the block, as `down_proj`."""
    d_in: int
    """Its input width."""
    d_out: int
    """Its output width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HypernetworkConfig:
    """The shape of a hypernetwork; with a checkpoint's tensors it is all there is to know."""

    d_model: int
    """Width of the features: the text decoder's hidden size."""
    layers: tuple[int, ...]
    """Decoder layers that get an update, ascending; a checkpoint may leave some out."""
    modules: tuple[TargetModule, ...]
    """Target modules, sorted by name."""
    rank: int
    """Rank of one segment's adapter."""
    scaling: float
    """The one multiplier of every update."""
    d_latent: int = 512
    """Width of the latents."""
    num_latents: int = 8
    """Latents of the perceiver's encoder."""
    num_cross_blocks: int = 9
    """Cross-attention blocks of the perceiver's encoder."""
    num_self_per_block: int = 0
    """Self-attention layers after each cross layer."""
    shared_weights: bool = False
    """Whether later blocks reuse the tensors of earlier ones."""
    num_residual_mlps: int = 1
    """Residual MLPs between perceiver and head."""

    def __post_init__(self) -> None:
        where = "HypernetworkConfig"
        counts = (self.d_model, self.rank, self.d_latent, self.num_latents, self.num_cross_blocks)
        if min(counts) < 1 or min(self.num_self_per_block, self.num_residual_mlps) < 0:
            raise UsageError(f"{where}: widths, rank and counts must be positive; got {self}")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
            raise UsageError(
                f"{where}: layers must be ascending, distinct and not empty; got {self.layers}"
            )
        names = [module.name for module in self.modules]
        if not names or names != sorted(set(names)):
            raise UsageError(
                f"{where}: modules must be sorted by name, distinct and not empty; got {names}"
            )

    @property
    def d_lora(self) -> int:
        """Width of the head's output: the widest module's d_in + d_out."""
        return max(module.d_in + module.d_out for module in self.modules)


class ResidualMlp(nn.Module):
    """e + LN2(W2 silu(W1 LN1(e) + b1) + b2), in float32."""

    def __init__(self, d_latent: int) -> None:
        super().__init__()
        # The released code has dropouts at 1 and 4: the numbers are its keys.
        self.mlp = nn.Sequential(
            nn.LayerNorm(d_latent),
            nn.Identity(),
            nn.Linear(d_latent, WIDENING * d_latent),
            nn.SiLU(),
            nn.Identity(),
            nn.Linear(WIDENING * d_latent, d_latent),
            nn.LayerNorm(d_latent),
        )

    def forward(self, e: Float[Tensor, "*rows d_latent"]) -> Float[Tensor, "*rows d_latent"]:
        """Refine an embedding."""
        refined: Tensor = e + self.mlp(e)
        return refined


class Head(nn.Module):
    """One matrix per decoder layer, and per module where there are several; no bias."""

    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__()
        modules = (len(config.modules),) if len(config.modules) > 1 else ()
        shape = (len(config.layers), *modules, config.d_latent, config.d_lora)
        self.weight = nn.Parameter(torch.empty(shape))

    def forward(
        self, u: Float[Tensor, "segment layer module rank d_latent"], layers: slice
    ) -> Float[Tensor, "segment layer module rank d_lora"]:
        """Map embeddings of the covered layers `layers` to flat factors."""
        weight = self.weight if self.weight.ndim == 4 else self.weight[:, None]
        return torch.einsum("slmrd,lmdo->slmro", u, weight[layers])


class Hypernetwork(nn.Module):
    """Features of segments -> factors of their adapters."""

    def __init__(
        self,
        config: HypernetworkConfig,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Build it and initialise it from `generator` (by default one seeded with 0).

        On the meta device nothing is initialised: load a state dict with assign=True.
        """
        super().__init__()
        self.config = config
        with torch.device("meta"):  # nothing is drawn from torch's global generator
            self._build(config)
        if torch.device(device).type != "meta":
            self.to_empty(device=device)
            self.reset_parameters(generator or torch.Generator(device).manual_seed(0))

    def _build(self, config: HypernetworkConfig) -> None:
        perceiver = Perceiver(
            d_model=config.d_model,
            d_latent=config.d_latent,
            num_latents=config.num_latents,
            num_outputs=len(config.modules) * config.rank,
            num_cross_blocks=config.num_cross_blocks,
            num_self_per_block=config.num_self_per_block,
            shared_weights=config.shared_weights,
        )
        self.aggregator = nn.ModuleDict({"perceiver": perceiver})
        self.layers = nn.Sequential(
            *(ResidualMlp(config.d_latent) for _ in range(config.num_residual_mlps))
        )
        num_layers, rank = len(config.layers), config.rank
        widths = {module.name: (module.d_in, module.d_out) for module in config.modules}
        self.bias_A = _parameters({n: (num_layers, rank, d_in) for n, (d_in, _) in widths.items()})
        self.bias_B = _parameters(
            {n: (num_layers, rank, d_out) for n, (_, d_out) in widths.items()}
        )
        self.scaler_A = _parameters(dict.fromkeys(widths, (1, num_layers, rank, 1)))
        self.scaler_B = _parameters(dict.fromkeys(widths, (1, num_layers, rank, 1)))
        self.head = Head(config)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Initialise every parameter; afterwards each adapter is an exact no-op.

        | parameter | drawn from |
        |---|---|
        | linear weights, biases | U(-1/sqrt(d_in), 1/sqrt(d_in)), torch's default |
        | norms | weight 1, bias 0 |
        | latents | N(0, 1) |
        | head | N(0, 0.5 / sqrt(d_latent + d_lora rank)) |
        | bias_A | N(0, 0.2 / sqrt(d_in rank)) |
        | bias_B, scaler_B | 0 |
        | scaler_A | 1 |
        """
        config = self.config
        for module in self.modules():
            _reset_module(module, generator)
        head_std = 0.5 / (config.d_latent + config.d_lora * config.rank) ** 0.5
        self.head.weight.normal_(0.0, head_std, generator=generator)
        for target in config.modules:
            bias_std = 0.2 / (target.d_in * config.rank) ** 0.5
            self.bias_A[target.name].normal_(0.0, bias_std, generator=generator)
            self.bias_B[target.name].zero_()
            self.scaler_A[target.name].fill_(1.0)
            self.scaler_B[target.name].zero_()

    @property
    def perceiver(self) -> Perceiver:
        """Return the network between features and embeddings."""
        found = self.aggregator["perceiver"]
        assert isinstance(found, Perceiver)
        return found

    def compute_in(self, dtype: torch.dtype) -> "Hypernetwork":
        """Cast the perceiver's parameters to `dtype`; the rest stays float32."""
        self.aggregator.to(dtype)
        return self

    def forward(
        self,
        features: Float[Tensor, "segment layer token d_model"],
        mask: Bool[Tensor, "segment token"] | Integer[Tensor, "segment token"] | None = None,
    ) -> dict[str, Factors]:
        """Make the factors [segment, layer, rank, d] of every module, all layers in one batch.

        `mask` is true (or 1) at real tokens; padding may stand left, right or anywhere.
        """
        num_layers = features.shape[1]
        if num_layers != len(self.config.layers):
            raise UsageError(
                f"Hypernetwork: features of {num_layers} layers, expected the "
                f"{len(self.config.layers)} covered ones {self.config.layers}; select them first"
            )
        mask_rows = None if mask is None else mask.repeat_interleave(num_layers, dim=0)
        e = self.embed(features.flatten(0, 1), mask_rows)
        return self.factors_of(e.unflatten(0, (-1, num_layers)), slice(None))

    def layer_factors(
        self,
        position: int,
        x: Float[Tensor, "segment token d_model"],
        mask: Bool[Tensor, "segment token"] | Integer[Tensor, "segment token"] | None = None,
    ) -> dict[str, LayerFactors]:
        """Make the factors [segment, rank, d] of one covered layer from its features alone.

        `position` counts covered layers: the decoder layer is `config.layers[position]`.
        """
        e = self.embed(x, mask)[:, None]
        factors = self.factors_of(e, slice(position, position + 1))
        return {name: (f.a.squeeze(1), f.b.squeeze(1)) for name, f in factors.items()}

    def embed(
        self,
        x: Float[Tensor, "segment token d_model"],
        mask: Bool[Tensor, "segment token"] | Integer[Tensor, "segment token"] | None = None,
    ) -> Float[Tensor, "segment module rank d_latent"]:
        """Embed the features of any covered layer: one vector per module and rank (E0)."""
        perceiver = self.aggregator["perceiver"]
        latents: Tensor = perceiver(x, None if mask is None else mask.bool())
        return latents.float().reshape(len(x), len(self.config.modules), self.config.rank, -1)

    def flat_factors(
        self, e: Float[Tensor, "segment layer module rank d_latent"], layers: slice
    ) -> Float[Tensor, "segment layer module rank d_lora"]:
        """Refine, normalise and project embeddings of the covered layers `layers`."""
        if self.head.weight.dtype != torch.float32:
            raise UsageError(
                f"Hypernetwork: head in {self.head.weight.dtype}, expected torch.float32; use "
                "compute_in(dtype), which casts the perceiver only"
            )
        refined = self.layers(e)
        unit = refined / refined.norm(dim=-1, keepdim=True).clamp_min(NORM_EPS)
        flat: Tensor = self.head(unit, layers)
        return flat

    def bias_factors(self) -> dict[str, Factors]:
        """Return the bias adapter's factors [layer, rank, d]: added once to every composition."""
        return {
            module.name: Factors(a=self.bias_A[module.name], b=self.bias_B[module.name])
            for module in self.config.modules
        }

    def factors_of(
        self, e: Float[Tensor, "segment layer module rank d_latent"], layers: slice
    ) -> dict[str, Factors]:
        """Turn embeddings of the covered layers `layers` into scaled A and B of every module."""
        flat = self.flat_factors(e, layers)
        factors = {}
        for index, module in enumerate(self.config.modules):
            widths = [module.d_in, module.d_out, flat.shape[-1] - module.d_in - module.d_out]
            a, b, _ = flat[:, :, index].split(widths, dim=-1)
            factors[module.name] = Factors(
                a=a * self.scaler_A[module.name][:, layers],
                b=b * self.scaler_B[module.name][:, layers],
            )
        return factors


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> nn.ParameterDict:
    return nn.ParameterDict({n: nn.Parameter(torch.empty(shape)) for n, shape in shapes.items()})


def _reset_module(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise the parameters that `module` itself holds, where its kind decides them."""
    if isinstance(module, nn.Linear):
        bound = module.in_features**-0.5
        module.weight.uniform_(-bound, bound, generator=generator)
        if module.bias is not None:
            module.bias.uniform_(-bound, bound, generator=generator)
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()
    elif isinstance(module, RmsNorm):
        module.weight.fill_(1.0)
    elif isinstance(module, Resampler):
        module.latents_q.normal_(generator=generator)
