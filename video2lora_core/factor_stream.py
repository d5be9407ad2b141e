"""Layers in one at a time, factors out: the hypernetwork between streaming and batching.

A layer's features [segment, token, d_model] are wide and become a context [segment, token,
d_latent] at once; then they can go. Contexts are kept until there are `rows` of them (segments x
layers) and then read together: the perceiver's weights, over 200 MB in float32 at full size, are
fetched once for all rows of a call, and for one segment at a time they cost more than the
arithmetic.
"""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from video2lora_core.adapter import Factors
from video2lora_core.hypernetwork import Hypernetwork

# One segment of the 500M at once: 32 contexts are 32 MB in bfloat16, a seventh of the vision
# tower's peak.
ROWS = 32


class FactorStream:
    """Takes the features of covered layers in ascending order and makes their factors."""

    def __init__(
        self,
        hypernetwork: Hypernetwork,
        *,
        mask: Bool[Tensor, "segment token"] | Integer[Tensor, "segment token"] | None,
        rows: int = ROWS,
    ) -> None:
        """Start with no layer; `mask` is true (or 1) at real tokens, None where all are."""
        self._hypernetwork = hypernetwork
        self._perceiver = hypernetwork.perceiver
        self._mask = None if mask is None else mask.bool()
        self._rows = rows
        self._contexts: list[Tensor] = []
        self._num_done = 0
        self._made: list[dict[str, Factors]] = []

    def take(self, layer: int, x: Float[Tensor, "segment token d_model"]) -> None:
        """Take a decoder layer's features, which are not kept."""
        expected = self._hypernetwork.config.layers[self._num_done + len(self._contexts)]
        assert layer == expected, f"layer {layer} came in the place of {expected}"
        self._contexts.append(self._perceiver.project(x, self._mask))
        if (len(self._contexts) + 1) * len(x) > self._rows:
            self._read()

    def finish(self) -> dict[str, Factors]:
        """Return the factors [segment, layer, rank, d] of every module."""
        if self._contexts:
            self._read()
        return {
            name: Factors(
                a=torch.cat([made[name].a for made in self._made], dim=1),
                b=torch.cat([made[name].b for made in self._made], dim=1),
            )
            for name in self._made[0]
        }

    def _read(self) -> None:
        count, config = len(self._contexts), self._hypernetwork.config
        contexts = torch.cat(self._contexts)
        self._contexts.clear()
        mask = None if self._mask is None else self._mask.repeat(count, 1)
        latents = self._perceiver.read(contexts, mask).float()
        e = latents.reshape(count, -1, len(config.modules), config.rank, config.d_latent)
        layers = slice(self._num_done, self._num_done + count)
        self._made.append(self._hypernetwork.factors_of(e.transpose(0, 1), layers))
        self._num_done += count
