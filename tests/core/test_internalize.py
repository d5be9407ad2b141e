"""Internalizing: a batch gives what its segments give alone, layer by layer, without the bias."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tests.core.tiny_vlm import D_FF, D_MODEL, PIXELS, TIMED, load_tiny_vlm
from video2lora_core.adapter import Adapter
from video2lora_core.encoder import stream_features
from video2lora_core.errors import ModelMismatchError, UsageError
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.internalize import collate_pixels, collate_prompts, internalize
from video2lora_core.segments import Segment, frame_times
from video2lora_core.vlm import Vlm

SHA256 = "c" * 64
CONFIG = HypernetworkConfig(
    d_model=D_MODEL,
    layers=(0, 2),
    modules=(
        TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL),
        TargetModule(name="q_proj", d_in=D_MODEL, d_out=D_MODEL),
    ),
    rank=3,
    scaling=5.0,
    d_latent=32,
    num_latents=4,
    num_cross_blocks=1,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    segment: Segment
    pixels: np.ndarray
    times_us: tuple[int, ...]


def frames(start_s: int, *, num_frames: int = 2, seed: int = 0) -> Frames:
    segment = Segment(start_us=start_s * 1_000_000, end_us=(start_s + 30) * 1_000_000)
    shape = (num_frames, 3, PIXELS.size_px, PIXELS.size_px)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frames(
        segment=segment, pixels=pixels, times_us=frame_times(segment, num_frames=num_frames)
    )


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"), layout=TIMED)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    """Trained as far as these tests care: scalers and biases away from zero."""
    made = Hypernetwork(CONFIG, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for group in (made.scaler_B, made.bias_B):
            for parameter in group.values():
                parameter.normal_(generator=generator)
    return made


def difference(left: Adapter, right: Adapter) -> float:
    return max(
        float((getattr(left.factors[name], side) - getattr(right.factors[name], side)).abs().max())
        for name in left.factors
        for side in "ab"
    )


def test_a_batch_of_ragged_prompts_equals_its_segments_one_by_one(
    vlm: Vlm, hypernetwork: Hypernetwork
):
    # 100 minutes in, a timestamp has one digit more: prompts of different length, hence padding.
    given = [frames(0, seed=1), frames(6_000, seed=2), frames(30, seed=3)]
    assert collate_prompts(vlm, given)[1] is not None
    together = internalize(vlm, hypernetwork, given, checkpoint_sha256=SHA256)
    alone = [internalize(vlm, hypernetwork, [one], checkpoint_sha256=SHA256)[0] for one in given]
    assert len(together) == 3
    for left, right in zip(together, alone, strict=True):
        assert difference(left, right) < 1e-5
    assert difference(together[0], together[2]) > 1e-2


def test_streaming_equals_the_hypernetwork_on_stacked_features(
    vlm: Vlm, hypernetwork: Hypernetwork
):
    given = [frames(0, seed=4), frames(30, seed=5)]
    features = []
    input_ids, mask = collate_prompts(vlm, given)
    stream_features(
        vlm,
        pixels=collate_pixels(given),
        input_ids=input_ids,
        layers=CONFIG.layers,
        consume=lambda _layer, x: features.append(x),
    )
    assert mask is None
    with torch.no_grad():
        expected = hypernetwork(torch.stack(features, dim=1), None)
    adapters = internalize(vlm, hypernetwork, given, checkpoint_sha256=SHA256)
    for row, adapter in enumerate(adapters):
        for name, factors in adapter.factors.items():
            assert torch.allclose(factors.a, expected[name].a[row], rtol=0, atol=1e-5)
            assert torch.allclose(factors.b, expected[name].b[row], rtol=0, atol=1e-5)


def test_an_adapter_says_what_it_is_and_stands_alone(vlm: Vlm, hypernetwork: Hypernetwork):
    adapters = internalize(
        vlm,
        hypernetwork,
        [frames(0), frames(30)],
        checkpoint_sha256=SHA256,
        dtype=torch.bfloat16,
    )
    for adapter in adapters:
        assert (adapter.rank, adapter.layers, adapter.scaling) == (3, (0, 2), 5.0)
        assert (adapter.checkpoint_sha256, adapter.has_bias) == (SHA256, False)
        for factors in adapter.factors.values():
            for tensor in (factors.a, factors.b):
                assert (tensor.dtype, tensor.device.type) == (torch.bfloat16, "cpu")
                assert not tensor.requires_grad
                assert tensor.untyped_storage().nbytes() == tensor.numel() * 2


def test_the_clock_of_the_layout_decides_whether_the_place_in_the_video_shows(
    vlm: Vlm, hypernetwork: Hypernetwork
):
    early, late = frames(0), frames(600)
    relative = replace(vlm, layout=replace(TIMED, clock="segment"))
    for encoder, is_same in ((vlm, False), (relative, True)):
        left, right = internalize(encoder, hypernetwork, [early, late], checkpoint_sha256=SHA256)
        assert (difference(left, right) < 1e-5) is is_same


def test_segments_of_one_batch_have_frames_of_one_shape(vlm: Vlm, hypernetwork: Hypernetwork):
    with pytest.raises(UsageError, match="expected one shape"):
        internalize(
            vlm, hypernetwork, [frames(0), frames(30, num_frames=3)], checkpoint_sha256=SHA256
        )
    with pytest.raises(UsageError, match="0 segments"):
        internalize(vlm, hypernetwork, [], checkpoint_sha256=SHA256)


@pytest.mark.parametrize("change", [{"d_model": 32}, {"layers": (0, 4)}])
def test_a_hypernetwork_for_another_encoder_is_refused(vlm: Vlm, change: dict[str, object]):
    other = Hypernetwork(replace(CONFIG, **change))
    with pytest.raises(ModelMismatchError, match="use the encoder that its checkpoint names"):
        internalize(vlm, other, [frames(0)], checkpoint_sha256=SHA256)
