"""Features are, bit for bit, what transformers gives its own decoder blocks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import SmolVLMForConditionalGeneration

from tests.core.golden_files import load_parts
from tests.core.tiny_vlm import COMPACT, PIXELS, load_tiny_vlm, write_tiny_vlm
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.encoder import Consume, look, place, stream_blocks, stream_features
from video2lora_core.errors import ModelMismatchError, PromptError, UsageError
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    LayerFactors,
    TargetModule,
)
from video2lora_core.inject import adapted
from video2lora_core.pixels import normalise
from video2lora_core.vlm import Vlm, internalization_ids, load_vlm

GOLDEN = Path(__file__).parents[1] / "golden/vlm_tiny"
LAYERS = (0, 1, 2)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def noise(num_segments: int = 2, num_frames: int = 3, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_segments, num_frames, 3, PIXELS.size_px, PIXELS.size_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def prompts(vlm: Vlm, num_segments: int = 2, num_frames: int = 3) -> Tensor:
    ids = internalization_ids(vlm, tuple(range(num_frames)), num_frames)
    return torch.tensor([ids] * num_segments)


def padded(ids: Tensor, *, side: str) -> tuple[Tensor, Tensor]:
    """Pad the first row by nothing, the others by three on one side."""
    filler = torch.zeros((len(ids), 3), dtype=torch.long)
    mask = torch.cat([torch.ones_like(ids), filler], dim=1)
    wide = torch.cat([ids, filler], dim=1)
    if side == "left":
        wide, mask = wide.roll(3, dims=1), mask.roll(3, dims=1)
    wide[0, :3] = wide[0, 3:] = 1
    wide[0, : ids.shape[1]] = ids[0]
    mask[0] = 1
    return wide, mask


def collected(vlm: Vlm, **kwargs: object) -> dict[int, Tensor]:
    found: dict[int, Tensor] = {}
    stream_features(vlm, consume=found.__setitem__, **kwargs)
    return found


def watched(vlm: Vlm, pixels: Tensor, input_ids: Tensor, mask: Tensor | None) -> dict[int, Tensor]:
    """Run all of transformers' forward and note each block's input."""
    found: dict[int, Tensor] = {}
    handles = [
        block.register_forward_pre_hook(
            lambda _block, args, layer=layer: found.__setitem__(layer, args[0])
        )
        for layer, block in enumerate(vlm.model.model.text_model.layers)
    ]
    with torch.no_grad():
        vlm.model(
            input_ids=input_ids,
            attention_mask=mask,
            pixel_values=normalise(pixels, dtype=vlm.dtype),
            pixel_attention_mask=None,
        )
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_equal_the_block_inputs_of_the_plain_forward_bit_for_bit(
    tmp_path: Path, attention: str, dtype: torch.dtype
):
    vlm = load_vlm(
        write_tiny_vlm(tmp_path),
        layout=COMPACT,
        pixel_spec=PIXELS,
        attention=attention,
        dtype=dtype,
    )
    pixels, ids = noise(), prompts(vlm)
    expected = watched(vlm, pixels, ids, None)
    found = collected(vlm, pixels=pixels, input_ids=ids, layers=(0, 1, 2, 3))
    assert list(found) == [0, 1, 2, 3]
    assert all(torch.equal(found[layer], expected[layer]) for layer in found)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_are_equal_bit_for_bit_too(vlm: Vlm, side: str):
    pixels = noise()
    ids, mask = padded(prompts(vlm), side=side)
    expected = watched(vlm, pixels, ids, mask)
    found = collected(vlm, pixels=pixels, input_ids=ids, attention_mask=mask, layers=LAYERS)
    assert all(torch.equal(found[layer], expected[layer]) for layer in LAYERS)


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_frames_of_one_colour_are_frames_not_padding(vlm: Vlm, level: int):
    pixels = noise()
    pixels[:, 1] = level
    ids = prompts(vlm)
    expected = watched(vlm, pixels, ids, None)
    found = collected(vlm, pixels=pixels, input_ids=ids, layers=LAYERS)
    assert all(torch.equal(found[layer], expected[layer]) for layer in LAYERS)


@pytest.fixture(scope="module")
def golden_vlm(vlm: Vlm) -> Vlm:
    """The golden model; its prompts are ids already, so any tokenizer will do."""
    model = SmolVLMForConditionalGeneration.from_pretrained(GOLDEN, attn_implementation="eager")
    return replace(vlm, model=model.eval(), name="golden")


def golden_stream(vlm: Vlm, golden: dict[str, Tensor], consume: Consume) -> None:
    with torch.no_grad():
        visual_tokens = look(vlm, golden["pixel_values"].flatten(0, 1))
        stream_blocks(
            vlm,
            place(vlm, golden["input_ids"], visual_tokens),
            attention_mask=golden["attention_mask"],
            layers=(0, 1, 2, 3),
            consume=consume,
        )


def test_features_of_a_padded_batch_equal_the_references(golden_vlm: Vlm):
    golden = load_file(GOLDEN / "features.safetensors")
    found: dict[int, Tensor] = {}
    golden_stream(golden_vlm, golden, found.__setitem__)
    real = golden["feature_mask"].bool()
    for layer, x in found.items():
        expected = golden["features"][:, layer]
        assert torch.allclose(x[real], expected[real], rtol=0, atol=2e-5)


def test_frames_to_factors_equal_the_references_end_to_end(golden_vlm: Vlm):
    golden = load_file(GOLDEN / "features.safetensors")
    config = HypernetworkConfig(
        d_model=64,
        layers=(0, 1, 2, 3),
        modules=(TargetModule(name="down_proj", d_in=96, d_out=64),),
        rank=4,
        scaling=16.0,
        d_latent=16,
        num_latents=8,
        num_cross_blocks=3,
    )
    hypernetwork = Hypernetwork(config)
    hypernetwork.load_state_dict(load_parts("hyper_down/hypernet"))
    made: list[LayerFactors] = []
    golden_stream(
        golden_vlm,
        golden,
        lambda layer, x: made.append(
            hypernetwork.layer_factors(layer, x, golden["feature_mask"])["down_proj"]
        ),
    )
    for side, layers in zip("AB", zip(*made, strict=True), strict=True):
        expected = golden[f"raw.down_proj.{side}"]
        assert torch.allclose(torch.stack(layers, dim=1), expected, rtol=0, atol=2e-5)


def test_no_block_runs_from_the_last_covered_one_on(vlm: Vlm):
    blocks = vlm.model.model.text_model.layers
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_args, layer=layer: ran.append(layer))
        for layer, block in enumerate(blocks)
    ]
    collected(vlm, pixels=noise(), input_ids=prompts(vlm), layers=(0, 2))
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_nothing_stays_behind_on_the_model_even_after_an_error(vlm: Vlm):
    def fail(layer: int, x: Tensor) -> None:
        raise RuntimeError(f"no room for layer {layer}")

    with pytest.raises(RuntimeError, match="no room for layer 0"):
        stream_features(vlm, pixels=noise(), input_ids=prompts(vlm), layers=LAYERS, consume=fail)
    assert not any(module._forward_pre_hooks for module in vlm.model.modules())


def test_the_consumer_runs_in_the_callers_gradient_mode(vlm: Vlm):
    modes: list[tuple[bool, bool]] = []

    def note(_layer: int, x: Tensor) -> None:
        modes.append((torch.is_grad_enabled(), x.requires_grad))

    inputs = {"pixels": noise(), "input_ids": prompts(vlm), "layers": (0, 1)}
    stream_features(vlm, **inputs, consume=note)
    with torch.no_grad():
        stream_features(vlm, **inputs, consume=note)
    assert modes == [(True, False)] * 2 + [(False, False)] * 2


@pytest.mark.parametrize("layers", [(), (1, 0), (0, 0)])
def test_layers_must_ascend(vlm: Vlm, layers: tuple[int, ...]):
    with pytest.raises(UsageError, match="ascending"):
        collected(vlm, pixels=noise(), input_ids=prompts(vlm), layers=layers)


@pytest.mark.parametrize("layers", [(0, 4), (-1, 0)])
def test_layers_that_the_model_lacks_are_refused(vlm: Vlm, layers: tuple[int, ...]):
    with pytest.raises(ModelMismatchError, match="expected 0 to 3"):
        collected(vlm, pixels=noise(), input_ids=prompts(vlm), layers=layers)


def test_frames_of_another_size_are_refused(vlm: Vlm):
    pixels = noise()[..., :24, :24]
    with pytest.raises(ModelMismatchError, match="expected 32 x 32"):
        collected(vlm, pixels=pixels, input_ids=prompts(vlm), layers=LAYERS)


def test_image_tokens_may_not_move_between_rows(vlm: Vlm):
    """The total fits, yet one row would see a frame of the other."""
    ids = prompts(vlm)
    position = int((ids[0] == vlm.image_token_id).nonzero()[0])
    ids[0, position] = 1
    ids[1, -1] = vlm.image_token_id
    with pytest.raises(PromptError, match=r"\[11, 13\] image tokens \(expected 12 each"):
        collected(vlm, pixels=noise(), input_ids=ids, layers=LAYERS)


def test_features_are_never_taken_through_an_adapter(vlm: Vlm):
    factors = Factors(a=torch.zeros(1, 2, 96), b=torch.zeros(1, 2, 64))
    adapter = Adapter(
        factors={"down_proj": factors}, layers=(0,), scaling=1.0, checkpoint_sha256="0" * 64
    )
    with adapted(vlm.model, adapter), pytest.raises(UsageError, match="adapter injected"):
        collected(vlm, pixels=noise(), input_ids=prompts(vlm), layers=LAYERS)


def test_the_golden_files_are_whole():
    meta = json.loads((GOLDEN / "meta.json").read_text())
    found = load_file(GOLDEN / "features.safetensors")
    assert {f"features/{key}" for key in found} <= set(meta["tensors"])
