"""SmolVLM2 at 500M and 2.2B: every key and shape, every size of METHOD.md's table."""

import json
import resource
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from configs.load import load_model_config
from tasks.models import pixel_spec, prompt_layout
from tests.core.plain_hypernetwork import Plain
from tests.core.video_factory import FPS, write_video
from video2lora_core.adapter import Adapter, Factors, adapter_bytes
from video2lora_core.checkpoint import Checkpoint, check_fits
from video2lora_core.errors import ModelMismatchError
from video2lora_core.frames import SegmentFrames, decode
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.internalize import internalize
from video2lora_core.pixels import prepare
from video2lora_core.random_model import RandomModel, random_hypernetwork, released_settings
from video2lora_core.segments import Segment

NAMES = ("smolvlm2-500m", "smolvlm2-2.2b")
# METHOD.md, Sizes. The parameter counts of the VLMs are the ones that their hub pages state.
HYPERNETWORK_PARAMETERS = dict(zip(NAMES, (128_626_176, 227_323_136), strict=True))
VLM_PARAMETERS = dict(zip(NAMES, (507_482_304, 2_246_784_880), strict=True))
ADAPTER_BYTES = dict(zip(NAMES, (3_604_480, 7_864_320), strict=True))
TOKENS_PER_FRAME = dict(zip(NAMES, (64, 81), strict=True))
TEXT = {  # layers, hidden, ff, query heads, kv heads
    "smolvlm2-500m": (32, 960, 2560, 15, 5),
    "smolvlm2-2.2b": (24, 2048, 8192, 32, 32),
}
VISION = {  # width, layers, ff, patch, image, shuffle
    "smolvlm2-500m": (768, 12, 3072, 16, 512, 4),
    "smolvlm2-2.2b": (1152, 27, 4304, 14, 384, 3),
}
VOCAB, HEAD_DIM = 49280, 64


def architecture(name: str) -> SmolVLMConfig:
    path = load_model_config(name).vlm.architecture
    return SmolVLMConfig(**json.loads(Path(path or "").read_text()))


def on_meta(name: str) -> SmolVLMForConditionalGeneration:
    with torch.device("meta"):
        return SmolVLMForConditionalGeneration(architecture(name))


def expected_text_shapes(name: str) -> dict[str, tuple[int, ...]]:
    num_layers, width, ff, num_q, num_kv = TEXT[name]
    root = "model.text_model."
    shapes = {
        f"{root}embed_tokens.weight": (VOCAB, width),
        f"{root}norm.weight": (width,),
        "lm_head.weight": (VOCAB, width),
    }
    for layer in range(num_layers):
        block = f"{root}layers.{layer}."
        shapes |= {
            f"{block}input_layernorm.weight": (width,),
            f"{block}post_attention_layernorm.weight": (width,),
            f"{block}self_attn.q_proj.weight": (num_q * HEAD_DIM, width),
            f"{block}self_attn.k_proj.weight": (num_kv * HEAD_DIM, width),
            f"{block}self_attn.v_proj.weight": (num_kv * HEAD_DIM, width),
            f"{block}self_attn.o_proj.weight": (width, num_q * HEAD_DIM),
            f"{block}mlp.gate_proj.weight": (ff, width),
            f"{block}mlp.up_proj.weight": (ff, width),
            f"{block}mlp.down_proj.weight": (width, ff),
        }
    return shapes


def expected_vision_shapes(name: str) -> dict[str, tuple[int, ...]]:
    width, num_layers, ff, patch, image, shuffle = VISION[name]
    root = "model.vision_model."
    shapes = {
        f"{root}embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{root}embeddings.patch_embedding.bias": (width,),
        f"{root}embeddings.position_embedding.weight": ((image // patch) ** 2, width),
        f"{root}post_layernorm.weight": (width,),
        f"{root}post_layernorm.bias": (width,),
        "model.connector.modality_projection.proj.weight": (TEXT[name][1], width * shuffle**2),
    }
    for layer in range(num_layers):
        block = f"{root}encoder.layers.{layer}."
        linears = {
            "self_attn.q_proj": (width, width),
            "self_attn.k_proj": (width, width),
            "self_attn.v_proj": (width, width),
            "self_attn.out_proj": (width, width),
            "mlp.fc1": (ff, width),
            "mlp.fc2": (width, ff),
        }
        for linear, shape in linears.items():
            shapes |= {f"{block}{linear}.weight": shape, f"{block}{linear}.bias": shape[:1]}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{block}{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    return shapes


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_architecture_has_every_key_and_shape(name):
    found = {key: tuple(t.shape) for key, t in on_meta(name).state_dict().items()}
    assert found == expected_text_shapes(name) | expected_vision_shapes(name)
    assert sum(p.numel() for p in on_meta(name).parameters()) == VLM_PARAMETERS[name]


def expected_hypernetwork_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """METHOD.md, The released checkpoints: the table of keys."""
    (num_layers, width, ff, _, _), d, r = TEXT[name], 512, 16
    root = "aggregator.perceiver."
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}modality_projection.gate_proj.weight": (4 * width, width),
        f"{root}modality_projection.up_proj.weight": (4 * width, width),
        f"{root}modality_projection.down_proj.weight": (d, 4 * width),
        f"{root}encoder.latents_q": (8, d),
        f"{root}decoder.latents_q": (r, d),
        "layers.0.mlp.2.weight": (4 * d, d),
        "layers.0.mlp.2.bias": (4 * d,),
        "layers.0.mlp.5.weight": (d, 4 * d),
        "layers.0.mlp.5.bias": (d,),
        "bias_A.down_proj": (num_layers, r, ff),
        "bias_B.down_proj": (num_layers, r, width),
        "scaler_A.down_proj": (1, num_layers, r, 1),
        "scaler_B.down_proj": (1, num_layers, r, 1),
        "head.weight": (num_layers, d, ff + width),
    }
    shapes |= {f"layers.0.mlp.{i}.{kind}": (d,) for i in (0, 6) for kind in ("weight", "bias")}
    for part, num_blocks in (("encoder", 9), ("decoder", 1)):
        shapes[f"{root}{part}.layernorm.weight"] = (d,)
        for block in range(num_blocks):
            layer = f"{root}{part}.layers.{block}."
            norms = "input_latents input_context post_attention pre_ff post_ff"
            shapes |= {f"{layer}{norm}_layernorm.weight": (d,) for norm in norms.split()}
            linears = {
                "self_attn.q_proj": (2048, d),
                "self_attn.k_proj": (512, d),
                "self_attn.v_proj": (512, d),
                "self_attn.o_proj": (d, 2048),
                "mlp.gate_proj": (4 * d, d),
                "mlp.up_proj": (4 * d, d),
                "mlp.down_proj": (d, 4 * d),
            }
            shapes |= {f"{layer}{linear}.weight": shape for linear, shape in linears.items()}
    return shapes


@pytest.mark.parametrize("name", NAMES)
def test_the_released_hypernetworks_have_every_key_shape_and_parameter(name):
    hypernetwork = Hypernetwork(released_settings(architecture(name)), device="meta")
    found = {key: tuple(t.shape) for key, t in hypernetwork.state_dict().items()}
    assert found == expected_hypernetwork_shapes(name)
    count = sum(p.numel() for p in hypernetwork.parameters())
    assert count == HYPERNETWORK_PARAMETERS[name]
    assert hypernetwork.config.scaling == 128.0


def meta_checkpoint(name: str) -> Checkpoint:
    hypernetwork = Hypernetwork(released_settings(architecture(name)), device="meta")
    return Checkpoint(hypernetwork=hypernetwork, sha256="0" * 64, info={})


@pytest.mark.parametrize("name", NAMES)
def test_a_released_checkpoint_fits_its_model_and_is_refused_by_the_other_with_both_shapes(name):
    other = NAMES[1 - NAMES.index(name)]
    check_fits(meta_checkpoint(name), on_meta(name))
    (_, width, ff, _, _), (_, other_width, other_ff, _, _) = TEXT[name], TEXT[other]
    shapes = rf"{ff} -> {width} in the model, {other_ff} -> {other_width} in the adapter"
    with pytest.raises(ModelMismatchError, match=shapes):
        check_fits(meta_checkpoint(other), on_meta(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_adapter_has_the_bytes_of_the_table_its_header_aside(name, tmp_path):
    config = released_settings(architecture(name))
    (num_layers, width, ff, _, _), rank = TEXT[name], 16
    factors = Factors(a=torch.zeros(num_layers, rank, ff), b=torch.zeros(num_layers, rank, width))
    adapter = Adapter(
        factors={"down_proj": factors},
        layers=config.layers,
        scaling=config.scaling,
        checkpoint_sha256="0" * 64,
    )
    data = adapter_bytes(adapter, dtype=torch.bfloat16)
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    assert len(data) - header_bytes == ADAPTER_BYTES[name]
    assert header_bytes < 1024
    (tmp_path / "adapter.safetensors").write_bytes(data)
    with safe_open(tmp_path / "adapter.safetensors", framework="pt") as file:
        assert sorted(file.keys()) == ["down_proj.A", "down_proj.B"]


@pytest.mark.parametrize("name", NAMES)
def test_frames_become_the_pixels_of_the_public_processor(name):
    """The PIL processor that the released models were trained with, at the model's own sizes."""
    config = load_model_config(name)
    spec = pixel_spec(config)
    assert (spec.longest_edge_px, spec.size_px) == (384, VISION[name][4])
    noise = np.random.default_rng(0).integers(0, 256, (54, 96, 3), dtype=np.uint8)
    frame = np.kron(noise, np.ones((10, 10, 1), dtype=np.uint8))
    processor = SmolVLMImageProcessorPil(
        do_image_splitting=False,
        size={"longest_edge": 384},
        max_image_size={"longest_edge": spec.size_px},
    )
    theirs = processor(frame, return_tensors="np")["pixel_values"][0, 0]
    levels = np.rint((np.asarray(theirs) * 0.5 + 0.5) * 255).astype(int)
    ours = {
        resize: prepare(frame, type(spec)(longest_edge_px=384, size_px=spec.size_px, resize=resize))
        for resize in ("pil", "torch")
    }
    np.testing.assert_array_equal(ours["pil"], levels)
    assert np.abs(ours["torch"].astype(int) - levels).max() <= 3


@pytest.mark.slow
def test_one_of_the_24_layers_at_full_width_equals_the_naive_oracle():
    """2.2B: 1,190 tokens of 2,048 through the perceiver, the residual MLP and the last head."""
    config = released_settings(architecture("smolvlm2-2.2b"))
    one = type(config)(
        d_model=config.d_model,
        layers=(23,),
        modules=config.modules,
        rank=config.rank,
        scaling=config.scaling,
    )
    hypernetwork = random_hypernetwork(one, seed=1)
    x = torch.randn(1, 1190, config.d_model, generator=torch.Generator().manual_seed(2))
    ours = hypernetwork.layer_factors(0, x)["down_proj"]
    oracle = Plain(hypernetwork.state_dict(), one).one_layer(0, x[0])["down_proj"]
    for found, expected in zip(ours, oracle, strict=True):
        assert found.shape[1:] == expected.shape
        scale = expected.square().mean().sqrt()
        torch.testing.assert_close(found[0] / scale, expected / scale, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_the_500m_internalizes_one_segment_of_12_frames_on_a_cpu(tmp_path, capsys):
    """30 s of a real mp4 through every layer, random weights in bf16; time and memory are shown."""
    config = load_model_config("smolvlm2-500m", random_weights=True)
    drawn = RandomModel(architecture=Path(config.vlm.architecture or ""), seed=0, tokenizer=None)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    started = time.perf_counter()
    vlm = drawn.load_vlm(
        layout=prompt_layout(config),
        pixel_spec=pixel_spec(config),
        dtype=torch.bfloat16,
        device="cpu",
        attention="sdpa",
    )
    hypernetwork = random_hypernetwork(released_settings(drawn.config()), seed=0)
    loaded_s = time.perf_counter() - started
    video = write_video(tmp_path / "video.mp4", numbers=range(30 * FPS), size_px=(640, 360))
    span = Segment(start_us=0, end_us=30_000_000)
    (frames,) = decode(video, [span], num_frames=12, prepare=partial(prepare, spec=vlm.pixel_spec))
    assert isinstance(frames, SegmentFrames)
    started, started_cpu = time.perf_counter(), time.process_time()
    (adapter,) = internalize(vlm, hypernetwork, [frames], checkpoint_sha256="0" * 64)
    internalized_s = time.perf_counter() - started
    cpu_s = time.process_time() - started_cpu
    torch.set_num_threads(threads)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with capsys.disabled():
        sys.stdout.write(
            f"\n500M: weights {loaded_s:.1f} s, segment {internalized_s:.1f} s "
            f"({cpu_s:.1f} s of CPU), peak {peak_mib:.0f} MiB\n"
        )
    factors = adapter.factors["down_proj"]
    assert (adapter.layers, adapter.rank) == (tuple(range(32)), 16)
    assert factors.a.shape == (32, 16, 2560)
    assert factors.b.shape == (32, 16, 960)
    assert factors.a.isfinite().all()
    assert factors.b.abs().min(dim=-1).values.max() > 0
    data = adapter_bytes(adapter, dtype=torch.bfloat16)
    assert len(data) - 8 - int.from_bytes(data[:8], "little") == ADAPTER_BYTES["smolvlm2-500m"]
