"""The embedded default's VLM: a SmolVLM of a million parameters, with a forward pass to see into.

The architecture is transformers' own; only the sizes are ours. Frames of 48 x 48 px become 36
patches and, after the connector's pixel shuffle, 4 visual tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from video2lora_core.shapes_world import tokenizer as words
from video2lora_core.training.batches import FRAME_PX, NUM_FRAMES
from video2lora_core.training.rows import PackedRows

IMAGE_TOKENS = 4
D_MODEL, NUM_LAYERS = 128, 4


def build_vlm(*, seed: int, attention: str = "sdpa") -> SmolVLMForConditionalGeneration:
    """Build the embedded VLM with random weights."""
    ids = words.vocabulary()
    vision = {
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": FRAME_PX,
        "patch_size": 8,
        "initializer_range": 0.05,
    }
    text = {
        "model_type": "llama",
        "vocab_size": words.vocabulary_size(),
        "hidden_size": D_MODEL,
        "intermediate_size": 384,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "pad_token_id": ids[words.PAD],
        "bos_token_id": ids[words.START],
        "eos_token_id": ids[words.END],
        "tie_word_embeddings": True,
    }
    config = SmolVLMConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids[words.IMAGE],
        scale_factor=3,
        tie_word_embeddings=True,
        pad_token_id=ids[words.PAD],
        initializer_range=0.05,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SmolVLMForConditionalGeneration._from_config(config, attn_implementation=attention)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A forward pass of packed rows: decoder block inputs, normed output, rotary angles."""

    block_inputs: Sequence[Float[Tensor, "row token d_model"]]
    output: Float[Tensor, "row token d_model"]
    cosine: Tensor
    sine: Tensor


def visual_tokens(
    model: SmolVLMForConditionalGeneration, frames: UInt8[Tensor, "frame channel height width"]
) -> Float[Tensor, "frame token d_model"]:
    """Run the vision tower and the connector over frames."""
    pixels = frames.to(torch.float32).div_(127.5).sub_(1.0)
    core = model.model
    patches = core.vision_model(pixel_values=pixels).last_hidden_state
    visual: Tensor = core.connector(patches)
    return visual


def embed(
    model: SmolVLMForConditionalGeneration,
    ids: Int[Tensor, "row token"],
    visual: Float[Tensor, "patch d_model"] | None,
) -> Float[Tensor, "row token d_model"]:
    """Look up token embeddings; the visual tokens, in order, replace the image tokens."""
    embeddings: Tensor = model.model.text_model.embed_tokens(ids)
    if visual is None:
        return embeddings
    at_image = (ids == model.config.image_token_id)[..., None]
    return embeddings.masked_scatter(at_image, visual)


def run_decoder(
    model: SmolVLMForConditionalGeneration,
    embeddings: Float[Tensor, "row token d_model"],
    rows: PackedRows,
) -> Trace:
    """Run all decoder blocks over packed rows."""
    text = model.model.text_model
    hidden, inputs = embeddings, []
    cosine, sine = text.rotary_emb(embeddings, position_ids=rows.positions)
    for block in text.layers:
        inputs.append(hidden)
        hidden = block(
            hidden,
            attention_mask=rows.mask,
            position_embeddings=(cosine, sine),
            position_ids=rows.positions,
        )
    return Trace(block_inputs=inputs, output=text.norm(hidden), cosine=cosine, sine=sine)


def label_logits(
    model: SmolVLMForConditionalGeneration, trace: Trace, rows: PackedRows
) -> Float[Tensor, "label vocab"]:
    """Return the logits that predict the labels of packed rows."""
    logits: Tensor = model.lm_head(trace.output[rows.label_row, rows.label_column])
    return logits


class TrainingHeads(nn.Module):
    """Linear read-outs that exist in training only: what a frame shows, how a scene's shapes move.

    Without them vision stays at chance for minutes and motion for longer; they are thrown away
    afterwards.
    """

    def __init__(self, *, num_shapes: int, num_colours: int, num_motions: int) -> None:
        super().__init__()
        width = IMAGE_TOKENS * D_MODEL
        self.num_shapes = num_shapes
        self.colour = nn.Linear(width, num_shapes * (num_colours + 1))
        self.place = nn.Linear(width, num_shapes * 2)
        self.background = nn.Linear(width, 4)
        self.motion = nn.ModuleList(
            nn.Linear(width, num_shapes * (num_motions + 1)) for _ in range(2)
        )

    def frame_outputs(self, visual: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [frame, shape, colour + 1], places [frame, shape, 2], background logits."""
        flat = visual.flatten(1)
        colour = self.colour(flat).unflatten(1, (self.num_shapes, -1))
        return colour, self.place(flat).unflatten(1, (self.num_shapes, 2)), self.background(flat)

    def motion_logits(self, depth: int, last_frame: Tensor) -> Tensor:
        """Return logits [scene, shape, motion + 1] from last frames [scene, token, d_model]."""
        logits: Tensor = self.motion[depth](last_frame.flatten(1))
        by_shape: Tensor = logits.unflatten(1, (self.num_shapes, -1))
        return by_shape


def last_frame_columns(num_scenes: int) -> Int[Tensor, "scene token"]:
    """Return where each scene's last frame's visual tokens stand in a row."""
    frame = torch.arange(num_scenes) * NUM_FRAMES + NUM_FRAMES - 1
    return _FRAMES_START + frame[:, None] * (IMAGE_TOKENS + 1) + torch.arange(IMAGE_TOKENS)


def scene_columns(num_scenes: int) -> Int[Tensor, "scene token"]:
    """Return where each scene's visual tokens stand in a row."""
    frame = torch.arange(num_scenes * NUM_FRAMES).view(num_scenes, NUM_FRAMES, 1)
    return (_FRAMES_START + frame * (IMAGE_TOKENS + 1) + torch.arange(IMAGE_TOKENS)).flatten(1)


_FRAMES_START = 2  # behind "<|im_start|>" and "User:"
