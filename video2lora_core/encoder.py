"""Features: what a frozen VLM sees in a segment, layer by layer.

Features are the INPUTS of the text decoder's blocks (METHOD: X[:, l]), for all tokens of the
internalization prompt. Choices:

* Layers are handed on one at a time and never stacked, and the forward stops before the last block
  that is asked for: its own output is nobody's input.
* A batch without padding goes through fixed_shape.py, which asks the device nothing. Any other goes
  through transformers' own forward, watched by forward pre-hooks that are gone afterwards.
* Frames go straight to the vision tower. `get_image_features` would look for all-zero padding
  frames, which costs a device sync and can never find one: no uint8 level normalises to zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from video2lora_core.errors import ModelMismatchError, PromptError, UsageError
from video2lora_core.fixed_shape import is_fixed_shape, run_blocks, see
from video2lora_core.inject import is_injected
from video2lora_core.pixels import normalise
from video2lora_core.vlm import Vlm

Consume = Callable[[int, Tensor], None]


def stream_features(
    vlm: Vlm,
    *,
    pixels: UInt8[Tensor, "segment frame channel height width"],
    input_ids: Int[Tensor, "segment token"],
    attention_mask: Int[Tensor, "segment token"] | Bool[Tensor, "segment token"] | None = None,
    layers: Sequence[int],
    consume: Consume,
) -> None:
    """Hand the input [segment, token, d_model] of each decoder block in `layers` to `consume`.

    Args:
        vlm: the encoder; run without gradients.
        pixels: prepared frames, any device.
        input_ids: internalization prompts with one image token per visual token.
        attention_mask: 1 where a token is real; None when nothing is padded.
        layers: decoder blocks in ascending order.
        consume: called as `consume(layer, x)`, in order, in the caller's gradient mode. It may keep
            `x` but not change it.

    Raises:
        PromptError: a row's image tokens do not match its frames.
        ModelMismatchError: the frames have another size, or the model has too few blocks.
    """
    _check_layers(vlm, layers)
    is_grad_wanted = torch.is_grad_enabled()

    def consume_in_callers_mode(layer: int, x: Tensor) -> None:
        with torch.set_grad_enabled(is_grad_wanted):
            consume(layer, x)

    with torch.no_grad():
        embeddings = embed(vlm, pixels=pixels, input_ids=input_ids)
        if attention_mask is not None:
            attention_mask = attention_mask.to(vlm.device)
        stream_blocks(
            vlm,
            embeddings,
            attention_mask=attention_mask,
            layers=layers,
            consume=consume_in_callers_mode,
        )


def embed(
    vlm: Vlm,
    *,
    pixels: UInt8[Tensor, "segment frame channel height width"],
    input_ids: Int[Tensor, "segment token"],
) -> Float[Tensor, "segment token d_model"]:
    """Embed prompts and put the frames' visual tokens where their image tokens stand."""
    check_frames(vlm, pixels, input_ids)
    return place(vlm, input_ids.to(vlm.device), look_at(vlm, pixels).flatten(0, 1))


def look_at(
    vlm: Vlm, pixels: UInt8[Tensor, "segment frame channel height width"]
) -> Float[Tensor, "segment frame patch d_model"]:
    """Turn segments' frames into visual tokens (here: patches), on the model's device.

    Raises:
        ModelMismatchError: the frames have another size.
    """
    _check_size(vlm, pixels)
    pixel_values = normalise(pixels.to(vlm.device).flatten(0, 1), dtype=vlm.dtype)
    visual_tokens: Tensor = look(vlm, pixel_values).unflatten(0, pixels.shape[:2])
    return visual_tokens


def embed_seen(
    vlm: Vlm,
    *,
    visual_tokens: Float[Tensor, "segment frame patch d_model"],
    input_ids: Int[Tensor, "segment token"],
) -> Float[Tensor, "segment token d_model"]:
    """Embed prompts and put visual tokens that are there already where their image tokens stand.

    Raises:
        ModelMismatchError: the visual tokens are not of this model's shape and type.
        PromptError: a row's image tokens do not match its frames.
    """
    _, num_frames, *found = visual_tokens.shape
    expected = [vlm.image_tokens_per_frame, vlm.d_model]
    if found != expected or visual_tokens.dtype != vlm.dtype:
        raise ModelMismatchError(
            f"features: a frame's visual tokens are {found} of {visual_tokens.dtype} (expected "
            f"{expected} of {vlm.dtype}); take those that this model made"
        )
    _check_places(vlm, num_frames, input_ids)
    return place(vlm, input_ids.to(vlm.device), visual_tokens.flatten(0, 1).to(vlm.device))


def look(
    vlm: Vlm, pixel_values: Float[Tensor, "frame channel height width"]
) -> Float[Tensor, "frame patch d_model"]:
    """Turn normalised frames into visual tokens (here: patches): vision tower and connector."""
    watching = vlm.model.model
    if is_fixed_shape(vlm):
        patches = see(vlm, pixel_values)
    else:
        patches = watching.vision_model(pixel_values=pixel_values).last_hidden_state
    visual_tokens: Tensor = watching.connector(patches)
    return visual_tokens


def place(
    vlm: Vlm,
    input_ids: Int[Tensor, "segment token"],
    visual_tokens: Float[Tensor, "frame patch d_model"],
) -> Float[Tensor, "segment token d_model"]:
    """Embed prompts; visual tokens take the places of the image tokens, row after row."""
    embeddings: Tensor = vlm.model.get_input_embeddings()(input_ids)
    is_visual = (input_ids == vlm.image_token_id).unsqueeze(-1)
    return embeddings.masked_scatter(is_visual, visual_tokens.to(embeddings.dtype))


def stream_blocks(
    vlm: Vlm,
    embeddings: Float[Tensor, "segment token d_model"],
    *,
    attention_mask: Int[Tensor, "segment token"] | Bool[Tensor, "segment token"] | None = None,
    layers: Sequence[int],
    consume: Consume,
) -> None:
    """Run the decoder on `embeddings` up to the last of `layers`, handing on each one's input."""
    refuse_adapted(vlm)
    if attention_mask is None and is_fixed_shape(vlm):
        run_blocks(vlm, embeddings, layers=layers, consume=consume)
        return
    blocks = vlm.model.model.text_model.layers
    handles = []
    try:
        for layer in layers:
            watch = _watcher(layer, consume, is_last=layer == layers[-1])
            handles.append(blocks[layer].register_forward_pre_hook(watch, with_kwargs=True))
        vlm.model.model.text_model(
            inputs_embeds=embeddings, attention_mask=attention_mask, use_cache=False
        )
    except _EnoughError:
        return
    finally:
        for handle in handles:
            handle.remove()


def check_frames(
    vlm: Vlm,
    pixels: UInt8[Tensor, "segment frame channel height width"],
    input_ids: Int[Tensor, "segment token"],
) -> None:
    """Refuse frames of another size, and prompts that do not hold exactly their frames."""
    _check_size(vlm, pixels)
    _check_places(vlm, pixels.shape[1], input_ids)


def refuse_adapted(vlm: Vlm) -> None:
    """Refuse a model with an adapter injected: frames are only shown to the frozen model."""
    if is_injected(vlm.model):
        raise UsageError(
            f"features: {vlm.name} has an adapter injected (expected the frozen model alone); "
            "leave the `with adapted` or `with merged` block first"
        )


class _EnoughError(Exception):
    """Ends a forward whose remaining blocks nobody needs; never leaves this module."""


def _watcher(layer: int, consume: Consume, *, is_last: bool) -> Callable[..., None]:
    def watch(_block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        consume(layer, args[0] if args else kwargs["hidden_states"])
        if is_last:
            raise _EnoughError

    return watch


def _check_layers(vlm: Vlm, layers: Sequence[int]) -> None:
    if not layers or list(layers) != sorted(set(layers)):
        raise UsageError(
            f"features: layers are {list(layers)} (expected at least one, ascending, each once); "
            "correct the list"
        )
    if layers[0] < 0 or layers[-1] >= vlm.num_layers:
        raise ModelMismatchError(
            f"features: layers go from {layers[0]} to {layers[-1]} (expected 0 to "
            f"{vlm.num_layers - 1}, the decoder blocks of {vlm.name}); use the VLM that the "
            "hypernetwork was trained for"
        )


def _check_size(vlm: Vlm, pixels: Tensor) -> None:
    size_px = vlm.pixel_spec.size_px
    if pixels.shape[3:] != (size_px, size_px):
        raise ModelMismatchError(
            f"features: frames are {tuple(pixels.shape[3:])} px (expected {size_px} x {size_px}); "
            "prepare them with the VLM's pixel spec"
        )


def _check_places(vlm: Vlm, num_frames: int, input_ids: Int[Tensor, "segment token"]) -> None:
    # Rows are scattered as one run: a surplus in one row would take the next row's frames.
    counts = (input_ids == vlm.image_token_id).sum(dim=1).tolist()
    expected = num_frames * vlm.image_tokens_per_frame
    if any(count != expected for count in counts):
        raise PromptError(
            f"features: prompts hold {counts} image tokens (expected {expected} each: {num_frames} "
            f"frames of {vlm.image_tokens_per_frame}); build them with internalization_ids"
        )
