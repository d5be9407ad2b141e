"""The perceiver as its definition reads, with nothing saved (docs/method.md, Hypernetwork).

The baseline of the benchmarks, written apart from the fast code and from its tests: every block
normalises the whole context, projects keys and values for every token, copies them for each query
head and takes one softmax. It runs on the weights of a `Resampler` or a `Perceiver` of
`video2lora_core.perceiver`, by the names in their state dicts.

Shape legend: B rows, T tokens, Q latents, S = T + Q keys, H query heads, K key/value heads, C
head_dim, D d_latent, E d_model. No benchmark stands in this file, so its name begins with `_`.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

NUM_HEADS = 16
NUM_KV_HEADS = 4
HEAD_DIM = 128
RMS_EPS = 1e-6

Weights = Mapping[str, Tensor]


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """Select the tensors whose names begin with `prefix`, and cut it off."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Divide the last axis by its root mean square and multiply with a weight, in float32."""
    x_fp32 = x.float()
    unit = x_fp32 / torch.sqrt(x_fp32.square().mean(dim=-1, keepdim=True) + RMS_EPS)
    return (unit * weight.float()).to(x.dtype)


def swiglu(x: Tensor, weights: Weights) -> Tensor:
    """W_d(silu(W_g x) * W_u x)."""
    gate, up = linear(x, weights["gate_proj.weight"]), linear(x, weights["up_proj.weight"])
    return linear(silu(gate) * up, weights["down_proj.weight"])


def attend(
    q_in_BQD: Tensor, keys_from_BSD: Tensor, weights: Weights, mask_BS: Tensor | None
) -> Tensor:
    """Attend from the latents to every row of `keys_from`; `mask` is true at visible ones."""
    copies = NUM_HEADS // NUM_KV_HEADS
    q_BHQC = _heads(linear(q_in_BQD, weights["q_proj.weight"]), NUM_HEADS)
    k_BKSC = _heads(linear(keys_from_BSD, weights["k_proj.weight"]), NUM_KV_HEADS)
    v_BKSC = _heads(linear(keys_from_BSD, weights["v_proj.weight"]), NUM_KV_HEADS)
    k_BHSC, v_BHSC = (x.repeat_interleave(copies, dim=1) for x in (k_BKSC, v_BKSC))
    scores_BHQS = q_BHQC @ k_BHSC.mT / math.sqrt(HEAD_DIM)
    if mask_BS is not None:
        scores_BHQS = scores_BHQS.masked_fill(~mask_BS[:, None, None], -math.inf)
    p_BHQS = scores_BHQS.softmax(dim=-1, dtype=torch.float32).to(scores_BHQS.dtype)
    return linear((p_BHQS @ v_BHSC).transpose(1, 2).flatten(2), weights["o_proj.weight"])


def _heads(x_BSX: Tensor, num_heads: int) -> Tensor:
    return x_BSX.view(*x_BSX.shape[:-1], num_heads, HEAD_DIM).transpose(1, 2)


class NaiveLayer:
    """One block: attention and a gated MLP, each between two norms; the residual is un-normed."""

    def __init__(self, weights: Weights) -> None:
        norms = ("input_latents", "input_context", "post_attention", "pre_ff", "post_ff")
        self.norms = {name: weights.get(f"{name}_layernorm.weight") for name in norms}
        self.attention, self.mlp = below(weights, "self_attn."), below(weights, "mlp.")

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.norms[name]
        assert weight is not None, name
        return rms_norm(x, weight)

    def __call__(self, z_BQD: Tensor, context_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Update the latents; a layer without a context norm is a self layer."""
        q_in_BQD = self._norm("input_latents", z_BQD)
        keys_from_BSD, mask_BS = q_in_BQD, None
        if self.norms["input_context"] is not None:
            keys_from_BSD = torch.cat([self._norm("input_context", context_BTD), q_in_BQD], dim=1)
            if mask_BT is not None:
                mask_BS = torch.cat([mask_BT, mask_BT.new_ones(q_in_BQD.shape[:2])], dim=1)
        attended_BQD = attend(q_in_BQD, keys_from_BSD, self.attention, mask_BS)
        z_BQD = z_BQD + self._norm("post_attention", attended_BQD)
        return z_BQD + self._norm("post_ff", swiglu(self._norm("pre_ff", z_BQD), self.mlp))


class NaiveResampler:
    """Learned latents that read a context through a stack of blocks."""

    def __init__(self, weights: Weights) -> None:
        count = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        self.layers = [NaiveLayer(below(weights, f"layers.{i}.")) for i in range(count)]
        self.latents_q, self.layernorm = weights["latents_q"], weights["layernorm.weight"]

    def __call__(self, context_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Resample the context [batch, token, d_latent] into latents [batch, latent, d_latent]."""
        z_BQD = self.latents_q.expand(len(context_BTD), -1, -1)
        for layer in self.layers:
            z_BQD = layer(z_BQD, context_BTD, mask_BT)
        return rms_norm(z_BQD, self.layernorm)


class NaivePerceiver:
    """Modality projection, encoder over the features, decoder over the encoder's latents."""

    def __init__(self, weights: Weights) -> None:
        self.modality_projection = below(weights, "modality_projection.")
        self.encoder = NaiveResampler(below(weights, "encoder."))
        self.decoder = NaiveResampler(below(weights, "decoder."))

    def __call__(self, x_BTE: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        """Turn features [batch, token, d_model] into output latents."""
        context_BTD = swiglu(x_BTE, self.modality_projection)
        return self.decoder(self.encoder(context_BTD, mask_BT))
