"""A smaller square: the tower's own bits, positions over the whole frame, tokens to match."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, PreTrainedTokenizerFast, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings

from tests.core.golden_files import load_parts
from tests.core.test_encoder import GOLDEN, LAYERS, collected, watched
from tests.core.test_fixed_shape import Watch
from tests.core.test_full_shapes import architecture, on_meta
from tests.core.tiny_vlm import COMPACT, PIXELS, TIMED, build_tokenizer, tiny_config
from video2lora_core.encoder import look, stream_features
from video2lora_core.errors import ModelMismatchError
from video2lora_core.fixed_shape import is_fixed_shape, see
from video2lora_core.pixels import normalise
from video2lora_core.vision_square import image_tokens, side_fault, smaller_sides
from video2lora_core.vlm import Vlm, in_context_ids, internalization_ids, load_vlm, make_vlm

OWN_PX, STEP_PX = 64, 16  # patch 8 x pixel shuffle 2
TOKENS = {16: 1, 32: 4, 48: 9, 64: 16}


def vlm_of(side_px: int, *, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Vlm:
    """A random VLM of 8 x 8 positions that is shown frames of `side_px`."""
    tokenizer = build_tokenizer()
    config = tiny_config(
        vocab_size=tokenizer.get_vocab_size(), image_token_id=tokenizer.token_to_id("<image>")
    )
    config.vision_config.image_size = OWN_PX
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SmolVLMForConditionalGeneration._from_config(
            config, attn_implementation=attention, dtype=dtype
        )
    return make_vlm(
        model.eval().requires_grad_(False),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer),
        layout=COMPACT,
        pixel_spec=replace(PIXELS, size_px=side_px),
        weights_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
        name="random",
        revision=None,
    )


def frames(side_px: int, *, num_frames: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(side_px)
    shape = (2, num_frames, 3, side_px, side_px)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def prompts(vlm: Vlm, *, num_frames: int = 3) -> torch.Tensor:
    return torch.tensor([internalization_ids(vlm, tuple(range(num_frames)), num_frames)] * 2)


@pytest.mark.parametrize("side_px", TOKENS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features_at_every_side_are_the_bits_of_transformers_own_forward(
    side_px: int, dtype: torch.dtype, attention: str
) -> None:
    vlm = vlm_of(side_px, attention=attention, dtype=dtype)
    pixels, ids = frames(side_px), prompts(vlm)
    expected = watched(vlm, pixels, ids, None)
    found = collected(vlm, pixels=pixels, input_ids=ids, layers=LAYERS)
    assert is_fixed_shape(vlm) == (attention == "sdpa")
    assert all(torch.equal(found[layer], expected[layer]) for layer in LAYERS)


@pytest.mark.parametrize("side_px", [16, 32])
def test_the_golden_models_tower_gives_the_same_bits_by_both_ways(side_px: int) -> None:
    model = SmolVLMForConditionalGeneration(AutoConfig.from_pretrained(GOLDEN))
    model.load_state_dict(load_parts("vlm_tiny/model"), strict=True)
    vlm = replace(vlm_of(OWN_PX), model=model.eval().requires_grad_(False))
    pixel_values = normalise(frames(side_px))
    assert model.config._attn_implementation == "sdpa"
    with torch.no_grad():
        theirs = model.get_image_features(pixel_values=pixel_values)
        assert torch.equal(see(vlm, pixel_values.flatten(0, 1)), theirs.last_hidden_state)
        ours = look(vlm, pixel_values.flatten(0, 1))
    assert torch.equal(ours.flatten(0, 1), torch.cat(theirs.pooler_output))


def test_at_a_smaller_side_the_device_is_asked_nothing_either() -> None:
    vlm = vlm_of(32)
    with torch.no_grad(), Watch() as watch:
        inputs = {"pixels": frames(32), "input_ids": prompts(vlm), "layers": LAYERS}
        stream_features(vlm, **inputs, consume=lambda layer, x: None)
    assert watch.num_operations > 100
    assert watch.asked == []


@pytest.mark.parametrize("side_px", TOKENS)
def test_prompts_hold_one_image_token_per_visual_token(side_px: int) -> None:
    vlm = replace(vlm_of(side_px), layout=TIMED)
    seen = look(vlm, normalise(frames(side_px)[0]))
    assert seen.shape[1] == vlm.image_tokens_per_frame == TOKENS[side_px]
    times_us = (0, 1_000_000, 2_000_000)
    for ids in (
        internalization_ids(vlm, times_us, 3_000_000),
        in_context_ids(vlm, times_us, 3_000_000, "How many?"),
    ):
        assert ids.count(vlm.image_token_id) == 3 * TOKENS[side_px]


def test_frames_of_the_models_own_side_are_refused_where_a_smaller_one_was_asked_for() -> None:
    vlm = vlm_of(32)
    with pytest.raises(ModelMismatchError, match=r"frames are \(64, 64\) px \(expected 32 x 32\)"):
        collected(vlm, pixels=frames(64), input_ids=prompts(vlm), layers=LAYERS)


@pytest.mark.parametrize("side_px", [8, 24, 40, 63, 80, 128])
def test_other_sides_are_refused_with_those_that_fit(side_px: int) -> None:
    expected = rf"made {side_px} px \(expected 64, the model's own side, .*: 16, 32, 48\)"
    with pytest.raises(ModelMismatchError, match=expected):
        vlm_of(side_px)


def test_a_smaller_side_is_another_processor() -> None:
    assert len({vlm_of(side_px).processor_sha256 for side_px in TOKENS}) == len(TOKENS)


def positions(num_patches: int, *, of: int) -> list[int]:
    """Return the trained positions along one axis, found through the tower's own embeddings."""
    config = tiny_config(vocab_size=64, image_token_id=6).vision_config
    config.image_size, config.hidden_size, config.num_attention_heads = of * 8, 2, 1
    module = SmolVLMVisionEmbeddings(config)
    with torch.no_grad():
        module.patch_embedding.weight.zero_()
        module.patch_embedding.bias.zero_()
        numbers = torch.arange(of**2)
        module.position_embedding.weight.copy_(torch.stack([numbers // of, numbers % of], dim=-1))
        shape = (1, num_patches, num_patches)
        pixel_values = torch.zeros(1, 3, num_patches * 8, num_patches * 8)
        found = module(pixel_values, torch.ones(shape, dtype=torch.bool))[0].round().long()
    rows, columns = found.view(num_patches, num_patches, 2).unbind(-1)
    assert torch.equal(rows, columns.T)
    assert (columns == columns[0]).all()
    return columns[0].tolist()


@pytest.mark.parametrize("of", [6, 27, 32])
def test_patches_take_the_trained_positions_at_their_fraction_of_the_frame(of: int) -> None:
    """The embedded default has 6 a side, the 2.2B 27, the 500M 32; no rounding is off by one."""
    for num_patches in range(1, of + 1):
        expected = [place * of // num_patches for place in range(num_patches)]
        assert positions(num_patches, of=of) == expected


def test_the_500m_has_36_tokens_per_frame_at_384_px_and_the_22b_81_at_its_own() -> None:
    small, large = architecture("smolvlm2-500m"), architecture("smolvlm2-2.2b")
    assert (image_tokens(small, 512), image_tokens(small, 384)) == (64, 36)
    assert smaller_sides(small) == [64, 128, 192, 256, 320, 384, 448]
    assert image_tokens(large, 384) == 81
    assert side_fault(large, 384) is None  # its own, though 384 is no multiple of 42
    assert side_fault(large, 336) is None
    assert image_tokens(large, 336) == 64
    for side_px in (224, 320, 383, 512):
        expected = "patch 14 x pixel shuffle 3: 252, 294, 336, 378"
        assert expected in (side_fault(large, side_px) or "")


def test_at_full_shape_the_connector_gives_as_many_tokens_as_counted() -> None:
    vlm = replace(vlm_of(OWN_PX), model=on_meta("smolvlm2-500m"))
    pixel_values = torch.empty(2, 3, 384, 384, device="meta")
    assert see(vlm, pixel_values).shape == (2, 576, 768)
    assert look(vlm, pixel_values).shape == (2, 36, 960)


def test_a_loaded_model_takes_a_smaller_square(tmp_path: Path) -> None:
    vlm_of(OWN_PX).model.save_pretrained(tmp_path)
    build_tokenizer().save(str(tmp_path / "tokenizer.json"))
    spec = replace(PIXELS, size_px=48)
    assert load_vlm(tmp_path, layout=COMPACT, pixel_spec=spec).image_tokens_per_frame == 9
    assert load_vlm(tmp_path, layout=COMPACT).image_tokens_per_frame == 16
