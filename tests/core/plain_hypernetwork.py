"""The oracle: METHOD.md's hypernetwork as a plain loop, step by step by definition.

One segment, one layer and one attention head at a time; keys and values are formed and padded
tokens removed instead of masked. It reads a state dict with the released names.
"""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear, silu

HEADS, KV_HEADS, HEAD_DIM = 16, 4, 128


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.double() if x.dtype == torch.float64 else x.float()
    normed = wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + 1e-6)
    return (normed * weight.to(wide.dtype)).to(x.dtype)


class Plain:
    """Run a hypernetwork from its tensors; `dtype` is the perceiver's, the rest at least fp32."""

    def __init__(self, state, config, *, dtype=torch.float32):
        tail = torch.float64 if dtype == torch.float64 else torch.float32
        self.config, self.tail = config, tail
        self.state = {
            key: value.to(dtype if key.startswith("aggregator.") else tail)
            for key, value in state.items()
        }
        self.dtype = dtype

    def __getitem__(self, key: str) -> Tensor:
        return self.state[key]

    def factors(self, features: Tensor, mask: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        """Every module's A and B, [segment, layer, rank, d]."""
        per_segment = []
        for segment in range(features.shape[0]):
            keep = slice(None) if mask is None else mask[segment].bool()
            tokens = features[segment][:, keep]
            per_segment.append([self.one_layer(p, x) for p, x in enumerate(tokens)])
        return {
            module.name: tuple(
                torch.stack(
                    [torch.stack([row[module.name][side] for row in rows]) for rows in per_segment]
                )
                for side in (0, 1)
            )
            for module in self.config.modules
        }

    def embed(self, x: Tensor) -> Tensor:
        """E0 [module, rank, d_latent] of one segment's one layer, x [token, d_model]."""
        root = "aggregator.perceiver."
        x = x.to(self.dtype)
        context = self.swiglu(root + "modality_projection.", x)
        latents = self.resample(root + "encoder.", context, self.kinds())
        latents = self.resample(root + "decoder.", latents, ["cross"])
        return latents.reshape(len(self.config.modules), self.config.rank, -1).to(self.tail)

    def one_layer(self, position: int, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        e0 = self.embed(x)
        made = {}
        for index, module in enumerate(self.config.modules):
            head = self["head.weight"][position]
            head = head if len(self.config.modules) == 1 else head[index]
            rows = [self.flat(e, head) for e in e0[index]]
            a, b = [], []
            for rank, flat in enumerate(rows):
                scale_a = self[f"scaler_A.{module.name}"][0, position, rank, 0]
                scale_b = self[f"scaler_B.{module.name}"][0, position, rank, 0]
                a.append(flat[: module.d_in] * scale_a)
                b.append(flat[module.d_in : module.d_in + module.d_out] * scale_b)
            made[module.name] = (torch.stack(a), torch.stack(b))
        return made

    def flat(self, e: Tensor, head: Tensor) -> Tensor:
        for index in range(self.config.num_residual_mlps):
            mlp = f"layers.{index}.mlp."
            h = layer_norm(e, e.shape, self[mlp + "0.weight"], self[mlp + "0.bias"], 1e-5)
            h = silu(self[mlp + "2.weight"] @ h + self[mlp + "2.bias"])
            h = self[mlp + "5.weight"] @ h + self[mlp + "5.bias"]
            e = e + layer_norm(h, e.shape, self[mlp + "6.weight"], self[mlp + "6.bias"], 1e-5)
        return (e / torch.sqrt((e**2).sum())) @ head

    def kinds(self) -> list[str]:
        block = ["cross"] + ["self"] * self.config.num_self_per_block
        return block * self.config.num_cross_blocks

    def resample(self, prefix: str, context: Tensor, kinds: list[str]) -> Tensor:
        z = self[prefix + "latents_q"]
        for index, kind in enumerate(kinds):
            layer = f"{prefix}layers.{index}."
            q_in = rms_norm(z, self[layer + "input_latents_layernorm.weight"])
            keys = q_in
            if kind == "cross":
                ctx = rms_norm(context, self[layer + "input_context_layernorm.weight"])
                keys = torch.cat([ctx, q_in])
            attended = self.attend(layer + "self_attn.", q_in, keys)
            z = z + rms_norm(attended, self[layer + "post_attention_layernorm.weight"])
            h = self.swiglu(layer + "mlp.", rms_norm(z, self[layer + "pre_ff_layernorm.weight"]))
            z = z + rms_norm(h, self[layer + "post_ff_layernorm.weight"])
        return rms_norm(z, self[prefix + "layernorm.weight"])

    def attend(self, prefix: str, q_in: Tensor, key_in: Tensor) -> Tensor:
        q = linear(q_in, self[prefix + "q_proj.weight"])
        k = linear(key_in, self[prefix + "k_proj.weight"])
        v = linear(key_in, self[prefix + "v_proj.weight"])
        heads = []
        for head in range(HEADS):
            served = head // (HEADS // KV_HEADS)
            mine = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            theirs = slice(served * HEAD_DIM, (served + 1) * HEAD_DIM)
            scores = q[:, mine] @ k[:, theirs].T / HEAD_DIM**0.5
            p = scores.to(self.tail).softmax(-1).to(q.dtype)
            heads.append(p @ v[:, theirs])
        return linear(torch.cat(heads, dim=-1), self[prefix + "o_proj.weight"])

    def swiglu(self, prefix: str, x: Tensor) -> Tensor:
        gate = silu(linear(x, self[prefix + "gate_proj.weight"]))
        up = linear(x, self[prefix + "up_proj.weight"])
        return linear(gate * up, self[prefix + "down_proj.weight"])
