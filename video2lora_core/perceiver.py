"""The perceiver: many feature tokens in, a few latents out (METHOD.md, Hypernetwork).

Cross-attention is computed the absorbed way. Keys and values of the context are never formed: W_k
is folded into the few queries (q~ = W_k^T q, scores = q~ . x) and W_v is applied after averaging
(out = W_v (p x)). The RMS statistics of the context are the same in every block, so it is
normalised once and each block's norm weight is folded in beside W_k and W_v. Exact algebra; the
plain form is the oracle in tests/core/plain_hypernetwork.py.

Shape legend: B rows (segments x layers folded together), T tokens, Q latents, H query heads,
K key/value heads, G = H / K, C head_dim, D d_latent, E d_model (or a second D).
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

NUM_HEADS = 16
NUM_KV_HEADS = 4
GROUP = NUM_HEADS // NUM_KV_HEADS  # query heads that share a key/value head
HEAD_DIM = 128  # whatever d_latent is
WIDENING = 4  # hidden width of every gated MLP, in units of its input width
RMS_EPS = 1e-6


def unit_rms(
    x: Float[Tensor, "*rows width"],
) -> Float[Tensor, "*rows width"]:
    """Scale the last axis to a root mean square of one, in float32, and return x's dtype."""
    x_fp32 = x.float()
    return (x_fp32 * torch.rsqrt(x_fp32.square().mean(-1, keepdim=True) + RMS_EPS)).to(x.dtype)


class RmsNorm(nn.Module):
    """RMS normalisation with a weight, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Normalise the last axis."""
        return (unit_rms(x.float()) * self.weight.float()).to(x.dtype)

    def wide(self, x: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Normalise the last axis and leave the result in float32."""
        return unit_rms(x.float()) * self.weight.float()


class SwiGlu(nn.Module):
    """W_d(silu(W_g x) * W_u x), no biases; the hidden width is four times the input's."""

    def __init__(self, d_from: int, d_to: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_from, WIDENING * d_from, bias=False)
        self.up_proj = nn.Linear(d_from, WIDENING * d_from, bias=False)
        self.down_proj = nn.Linear(WIDENING * d_from, d_to, bias=False)

    def forward(self, x: Float[Tensor, "*rows d_from"]) -> Float[Tensor, "*rows d_to"]:
        """Map the last axis."""
        if torch.is_grad_enabled():
            y: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(x)) * self.up_proj(x))
            return y
        # The hidden rows are 15 MB each at full size: in place the same bits came 1.13x as fast.
        hidden = nn.functional.silu(self.gate_proj(x), inplace=True)
        mapped: Tensor = self.down_proj(hidden.mul_(self.up_proj(x)))
        return mapped


class AbsorbedAttention(nn.Module):
    """Attention of a few latents over themselves and, where given, over a long context.

    Both key sets meet in one softmax. `q_in` may have one row while the context has many: in the
    first block the latents do not depend on the input yet, so their queries are made once.
    """

    def __init__(self, d_latent: int) -> None:
        super().__init__()
        # W_k^T W_q and W_o W_v as one matrix each: a training step at d_latent 128 is 1.3x faster,
        # at 512 it would be twice the work. Narrower latents (fixtures) keep the definition's order
        # of sums: folded, their largest deviation from the reference was 8e-6 instead of 3e-6.
        self.is_folded = HEAD_DIM <= d_latent < 2 * HEAD_DIM
        self.q_proj = nn.Linear(d_latent, NUM_HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(d_latent, NUM_KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(d_latent, NUM_KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(NUM_HEADS * HEAD_DIM, d_latent, bias=False)

    def forward(
        self,
        q_in_BQD: Float[Tensor, "#batch query d_latent"],
        context_BTD: Float[Tensor, "batch token d_latent"] | None = None,
        context_weight_D: Float[Tensor, " d_latent"] | None = None,
        mask_BT: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch query d_latent"]:
        """Attend; `context_BTD` has unit RMS and its norm weight comes apart from it."""
        q_tilde_BXD = self._absorb_keys(q_in_BQD)  # X = Q * H, every head of every query
        scores_BXQ = q_tilde_BXD.to(q_in_BQD.dtype) @ q_in_BQD.mT
        if context_BTD is None or context_weight_D is None:
            return self._absorb_values(_softmax(scores_BXQ) @ q_in_BQD)
        rows, num_tokens, _ = context_BTD.shape
        q_tilde_BXD = (q_tilde_BXD * context_weight_D).to(context_BTD.dtype)
        scores_BXT = q_tilde_BXD @ context_BTD.mT
        if mask_BT is not None:
            scores_BXT = scores_BXT.masked_fill(~mask_BT[:, None], -math.inf)
        p_BXK = _softmax(torch.cat([scores_BXT, scores_BXQ.expand(rows, -1, -1)], dim=-1))
        p_context_BXT, p_latent_BXQ = p_BXK.tensor_split([num_tokens], dim=-1)
        y_latent_BXD, y_context_BXD = p_latent_BXQ @ q_in_BQD, p_context_BXT @ context_BTD
        return self._absorb_values(torch.addcmul(y_latent_BXD, y_context_BXD, context_weight_D))

    def _absorb_keys(self, q_in_BQD: Tensor) -> Tensor:
        """q~ = W_k^T W_q q_in, each query head with its group's W_k."""
        w_k_KCD = self.k_proj.weight.view(NUM_KV_HEADS, HEAD_DIM, -1)
        if self.is_folded:
            w_q_KGCD = self.q_proj.weight.view(NUM_KV_HEADS, GROUP, HEAD_DIM, -1)
            w_DKGE = torch.einsum("kgcd,kce->dkge", w_q_KGCD, w_k_KCD)
            q_tilde_BQX = q_in_BQD.float() @ w_DKGE.float().flatten(1)
            return q_tilde_BQX.view(len(q_in_BQD), -1, q_in_BQD.shape[-1])
        q_BQKGC = self.q_proj(q_in_BQD).unflatten(-1, (NUM_KV_HEADS, GROUP, HEAD_DIM))
        return torch.einsum("bqkgc,kcd->bqkgd", q_BQKGC.float(), w_k_KCD.float()).flatten(1, 3)

    def _absorb_values(self, y_BXD: Tensor) -> Tensor:
        """W_o W_v y, each query head with its group's W_v."""
        w_v_KCD = self.v_proj.weight.view(NUM_KV_HEADS, HEAD_DIM, -1)
        if self.is_folded:
            w_o_EKGC = self.o_proj.weight.view(-1, NUM_KV_HEADS, GROUP, HEAD_DIM)
            w_KGDE = torch.einsum("ekgc,kcd->kgde", w_o_EKGC, w_v_KCD)
            return y_BXD.reshape(len(y_BXD), -1, NUM_HEADS * y_BXD.shape[-1]) @ w_KGDE.flatten(0, 2)
        y_BQKGD = y_BXD.unflatten(1, (-1, NUM_KV_HEADS, GROUP))
        out_BQD: Tensor = self.o_proj(torch.einsum("bqkgd,kcd->bqkgc", y_BQKGD, w_v_KCD).flatten(2))
        return out_BQD


def _softmax(scores: Tensor) -> Tensor:
    # Scaled here and not in W_k: 1/sqrt(128) is no power of two, and would round the weights anew.
    p: Tensor = (scores.float() * HEAD_DIM**-0.5).softmax(dim=-1).to(scores.dtype)
    return p


class PerceiverLayer(nn.Module):
    """One cross or self layer: norms before and after each sublayer, un-normed residual."""

    def __init__(self, d_latent: int, *, is_cross: bool) -> None:
        super().__init__()
        self.is_cross = is_cross
        self.input_latents_layernorm = RmsNorm(d_latent)
        if is_cross:
            self.input_context_layernorm = RmsNorm(d_latent)
        self.self_attn = AbsorbedAttention(d_latent)  # the released name, in cross layers too
        self.post_attention_layernorm = RmsNorm(d_latent)
        self.pre_ff_layernorm = RmsNorm(d_latent)
        self.post_ff_layernorm = RmsNorm(d_latent)
        self.mlp = SwiGlu(d_latent, d_latent)

    def forward(
        self,
        z_BQD: Float[Tensor, "#batch query d_latent"],
        context_BTD: Float[Tensor, "batch token d_latent"],
        mask_BT: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch query d_latent"]:
        """Update the latents, which are float32; a self layer does not look at the context."""
        # The few latents carry what all blocks add up: in bfloat16 each sum would be rounded.
        dtype = context_BTD.dtype
        q_in_BQD = self.input_latents_layernorm(z_BQD).to(dtype)
        if self.is_cross:
            weight_D = self.input_context_layernorm.weight
            attended_BQD = self.self_attn(q_in_BQD, context_BTD, weight_D, mask_BT)
        else:
            attended_BQD = self.self_attn(q_in_BQD)
        z_BQD = z_BQD + self.post_attention_layernorm.wide(attended_BQD)
        return z_BQD + self.post_ff_layernorm.wide(self.mlp(self.pre_ff_layernorm(z_BQD).to(dtype)))


class Resampler(nn.Module):
    """Learned latents that read a context through blocks of one cross and n self layers."""

    def __init__(
        self,
        d_latent: int,
        *,
        num_latents: int,
        num_cross_blocks: int,
        num_self_per_block: int = 0,
        shared_weights: bool = False,
    ) -> None:
        super().__init__()
        self.latents_q = nn.Parameter(torch.empty(num_latents, d_latent))
        self.layers = nn.ModuleList(
            _layers(d_latent, num_cross_blocks, num_self_per_block, shared_weights)
        )
        self.layernorm = RmsNorm(d_latent)

    def forward(
        self,
        context_BTD: Float[Tensor, "batch token d_latent"],
        mask_BT: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch latent d_latent"]:
        """Resample the context into the latents."""
        return self.resample(unit_rms(context_BTD), mask_BT)

    def resample(
        self,
        unit_context_BTD: Float[Tensor, "batch token d_latent"],
        mask_BT: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch latent d_latent"]:
        """Resample a context that has unit RMS already."""
        z_BQD = self.latents_q[None].float()
        for layer in self.layers:
            z_BQD = layer(z_BQD, unit_context_BTD, mask_BT)
        normed_BQD: Tensor = self.layernorm(z_BQD).to(unit_context_BTD.dtype)
        return normed_BQD


def _layers(d_latent: int, num_cross: int, num_self: int, shared: bool) -> list[PerceiverLayer]:
    """Interleave cross and self layers: cross, self.., cross, self...

    Shared weights, as in the released code: the first cross layer is its own, all later cross
    layers are one, and the first block's self layers serve every block.
    """
    blocks = [[PerceiverLayer(d_latent, is_cross=True), *_self_layers(d_latent, num_self)]]
    for index in range(1, num_cross):
        is_copy = shared and index > 1
        cross = blocks[1][0] if is_copy else PerceiverLayer(d_latent, is_cross=True)
        selves = blocks[0][1:] if shared else _self_layers(d_latent, num_self)
        blocks.append([cross, *selves])
    return [layer for block in blocks for layer in block]


def _self_layers(d_latent: int, num_self: int) -> list[PerceiverLayer]:
    return [PerceiverLayer(d_latent, is_cross=False) for _ in range(num_self)]


class Perceiver(nn.Module):
    """Modality projection, encoder over the features, decoder over the encoder's latents."""

    def __init__(
        self,
        *,
        d_model: int,
        d_latent: int,
        num_latents: int,
        num_outputs: int,
        num_cross_blocks: int,
        num_self_per_block: int,
        shared_weights: bool,
    ) -> None:
        super().__init__()
        self.modality_projection = SwiGlu(d_model, d_latent)
        self.encoder = Resampler(
            d_latent,
            num_latents=num_latents,
            num_cross_blocks=num_cross_blocks,
            num_self_per_block=num_self_per_block,
            shared_weights=shared_weights,
        )
        self.decoder = Resampler(d_latent, num_latents=num_outputs, num_cross_blocks=1)

    def forward(
        self,
        x_BTE: Float[Tensor, "batch token d_model"],
        mask_BT: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch latent d_latent"]:
        """Turn each row's real tokens (mask True) into its output latents."""
        return self.read(self.project(x_BTE, mask_BT), mask_BT)

    def project(
        self,
        x_BTE: Float[Tensor, "batch token d_model"],
        mask_BT: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch token d_latent"]:
        """Turn features into a context of unit RMS: most of the work, and row by row."""
        x_BTE = x_BTE.to(self.encoder.latents_q.dtype)
        if mask_BT is not None:
            # A fully masked query of the encoder may be NaN, and 0 * NaN is NaN.
            x_BTE = x_BTE.masked_fill(~mask_BT[..., None], 0)
        return unit_rms(self.modality_projection(x_BTE))

    def read(
        self,
        unit_context_BTD: Float[Tensor, "batch token d_latent"],
        mask_BT: Bool[Tensor, "batch token"] | None,
    ) -> Float[Tensor, "batch latent d_latent"]:
        """Turn contexts into output latents: all weights are read once, however many rows."""
        outputs_BQD: Tensor = self.decoder(self.encoder.resample(unit_context_BTD, mask_BT), None)
        return outputs_BQD
