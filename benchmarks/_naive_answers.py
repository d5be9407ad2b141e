"""Answers one by one, as their definition reads: y = W x + scaling * B^T (A x) in Python hooks.

The baseline of the answering benchmark, written apart from the project's own injection and loop:
for each question a hook is put on every layer, the prompt is read, tokens are taken one at a time
with a KV cache, and the hooks are removed. Factors are plain tensors [layer, rank, d].
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def update_hook(a_RI: Tensor, b_RO: Tensor, scaling: float) -> Callable[..., Tensor]:
    """Add the update to a linear layer's output, in float32."""

    def hook(_module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        update = scaling * ((inputs[0].float() @ a_RI.T) @ b_RO)
        return output + update.to(output.dtype)

    return hook


def answer_one(
    model: Any,
    linears: Sequence[Any],
    prompt: Sequence[int],
    *,
    a_LRI: Tensor,
    b_LRO: Tensor,
    scaling: float,
    end_id: int,
    max_new_tokens: int,
) -> tuple[int, ...]:
    """Return the new ids of one prompt; `linears` are the target layers in order."""
    hooks = [
        linear.register_forward_hook(update_hook(a, b, scaling))
        for linear, a, b in zip(linears, a_LRI.float(), b_LRO.float(), strict=True)
    ]
    new_ids: list[int] = []
    read, cache = torch.tensor([list(prompt)]), None
    with torch.no_grad():
        while len(new_ids) < max_new_tokens:
            output = model(input_ids=read, past_key_values=cache, use_cache=True, logits_to_keep=1)
            new_id = int(output.logits[0, -1].argmax())
            if new_id == end_id:
                break
            new_ids.append(new_id)
            read, cache = torch.tensor([[new_id]]), output.past_key_values
    for hook in hooks:
        hook.remove()
    return tuple(new_ids)
