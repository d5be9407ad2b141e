"""The encoder's forward for unpadded batches: the same modules in order, and no look at a value.

transformers decides on its masks by asking tensors what they hold (`mask.all()` in the vision
tower, a test for packed positions in the decoder). On a GPU each question stops the host until the
device has caught up, and a CUDA graph cannot record it. Where nothing is padded the answers are
known: no mask in the tower, causal attention in the decoder. That is written down here, for "sdpa"
alone, because other kernels read causality from the mask. tests/core/test_fixed_shape.py holds it
to transformers' own forward bit for bit, and to asking nothing.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from video2lora_core.vlm import Vlm


def is_fixed_shape(vlm: Vlm) -> bool:
    """Say whether unpadded batches of this model can go the way of this module."""
    config = vlm.model.config
    parts = (config.text_config, config.vision_config)
    return all(part._attn_implementation == "sdpa" for part in parts)


def see(
    vlm: Vlm, pixel_values: Float[Tensor, "frame channel height width"]
) -> Float[Tensor, "frame _ _"]:
    """Run the vision tower on whole frames."""
    tower = vlm.model.model.vision_model
    side = pixel_values.shape[-1] // tower.patch_size
    shape = (len(pixel_values), side, side)
    is_whole = torch.ones(shape, dtype=torch.bool, device=pixel_values.device)
    x = tower.embeddings(pixel_values=pixel_values, patch_attention_mask=is_whole)
    x = tower.encoder(inputs_embeds=x, attention_mask=None).last_hidden_state
    patches: Tensor = tower.post_layernorm(x)
    return patches


def run_blocks(
    vlm: Vlm,
    embeddings: Float[Tensor, "segment token d_model"],
    *,
    layers: Sequence[int],
    consume: Callable[[int, Tensor], None],
) -> None:
    """Hand each of `layers`' block inputs to `consume`; the last one's block does not run."""
    decoder = vlm.model.model.text_model
    wanted = set(layers)
    positions = torch.arange(embeddings.shape[1], device=embeddings.device)[None]
    rotary = decoder.rotary_emb(embeddings, position_ids=positions)
    x = embeddings
    for layer in range(layers[-1] + 1):
        if layer in wanted:
            consume(layer, x)
        if layer < layers[-1]:
            x = decoder.layers[layer](
                x, attention_mask=None, position_embeddings=rotary, position_ids=positions
            )
