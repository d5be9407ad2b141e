"""Visual tokens: read back bit for bit, and as good as the frames they were made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.core.tiny_vlm import D_FF, D_MODEL, PIXELS, TIMED, write_tiny_vlm
from video2lora_core.adapter import Adapter, adapter_bytes
from video2lora_core.errors import ModelMismatchError, Reason, UsageError
from video2lora_core.frames import SegmentFrames
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.internalize import internalize, see
from video2lora_core.segments import Segment, frame_times
from video2lora_core.visual_tokens import SeenSegment, seen_bytes, seen_from_bytes, seen_segment
from video2lora_core.vlm import Vlm, load_vlm

SHA256, VIDEO_ID = "c" * 64, "d" * 64
CONFIG = HypernetworkConfig(
    d_model=D_MODEL,
    layers=(0, 2),
    modules=(TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL),),
    rank=3,
    scaling=5.0,
    d_latent=32,
    num_latents=4,
    num_cross_blocks=1,
)


def frames(start_s: int, *, num_frames: int = 2) -> SegmentFrames:
    segment = Segment(start_us=start_s * 1_000_000, end_us=(start_s + 30) * 1_000_000)
    shape = (num_frames, 3, PIXELS.size_px, PIXELS.size_px)
    pixels = np.random.default_rng(start_s).integers(0, 256, shape, dtype=np.uint8)
    return SegmentFrames(
        segment=segment,
        pixels=pixels,
        times_us=frame_times(segment, num_frames=num_frames),
        num_unique_frames=num_frames,
        num_corrupt_frames=1,
        max_lag_us=7,
        flags=(Reason.HDR_AS_SDR,),
    )


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def vlm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Vlm:
    directory = write_tiny_vlm(tmp_path_factory.mktemp("vlm"))
    return load_vlm(directory, layout=TIMED, pixel_spec=PIXELS, dtype=request.param)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    made = Hypernetwork(CONFIG, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in made.scaler_B.values():
            parameter.fill_(0.5)
    return made


def stored(vlm: Vlm, batch: list[SegmentFrames]) -> list[SeenSegment]:
    """Look at frames, write what was seen to bytes and read it again."""
    return [
        seen_from_bytes(
            seen_bytes(seen_segment(given, tokens), video_id=VIDEO_ID),
            video_id=VIDEO_ID,
            segment=given.segment,
        )
        for given, tokens in zip(batch, see(vlm, batch), strict=True)
    ]


def made(vlm: Vlm, hypernetwork: Hypernetwork, batch: list[SegmentFrames | SeenSegment]) -> bytes:
    found = internalize(vlm, hypernetwork, batch, checkpoint_sha256=SHA256)
    return b"".join(adapter_bytes(adapter, dtype=torch.float32) for adapter in found)


@pytest.mark.parametrize("starts", [(0,), (0, 30, 60), (0, 6_000, 30)])
def test_adapters_of_what_was_seen_are_those_of_the_frames_bit_for_bit(
    vlm: Vlm, hypernetwork: Hypernetwork, starts: tuple[int, ...]
):
    batch = [frames(start_s) for start_s in starts]  # 100 minutes in, a prompt is longer: padding
    assert made(vlm, hypernetwork, stored(vlm, batch)) == made(vlm, hypernetwork, batch)


def test_a_batch_that_mixes_both_gives_the_same_adapters(vlm: Vlm, hypernetwork: Hypernetwork):
    batch = [frames(start_s) for start_s in (0, 30, 60)]
    seen = stored(vlm, batch)
    plain = internalize(vlm, hypernetwork, batch, checkpoint_sha256=SHA256)
    mixed = internalize(vlm, hypernetwork, [seen[0], batch[1], seen[2]], checkpoint_sha256=SHA256)
    # Fewer frames before the tower may change last bits, which is all that is allowed.
    tolerance = 1e-5 if vlm.dtype == torch.float32 else 5e-2
    for left, right in zip(plain, mixed, strict=True):
        assert difference(left, right) < tolerance
    assert difference(plain[0], plain[1]) > tolerance


def difference(left: Adapter, right: Adapter) -> float:
    return max(
        float((a - b).abs().max() / b.abs().max())
        for name in left.factors
        for a, b in (
            (left.factors[name].a, right.factors[name].a),
            (left.factors[name].b, right.factors[name].b),
        )
    )


def test_nothing_is_looked_at_again(vlm: Vlm, hypernetwork: Hypernetwork):
    seen = stored(vlm, [frames(0), frames(30)])
    sizes: list[int] = []
    handle = vlm.model.model.vision_model.encoder.register_forward_pre_hook(
        lambda _module, _args, given: sizes.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    try:
        made(vlm, hypernetwork, seen)
        made(vlm, hypernetwork, [seen[0], frames(60)])
    finally:
        handle.remove()
    assert sizes == [2]


def test_tokens_of_another_model_or_length_are_refused(vlm: Vlm, hypernetwork: Hypernetwork):
    (seen,) = stored(vlm, [frames(0)])
    wide = replace(seen, visual_tokens=seen.visual_tokens.repeat(1, 2, 1))
    with pytest.raises(ModelMismatchError, match="take those that this model made"):
        made(vlm, hypernetwork, [wide])
    double = replace(seen, visual_tokens=seen.visual_tokens.double())
    with pytest.raises(ModelMismatchError, match="float64"):
        made(vlm, hypernetwork, [double])
    with pytest.raises(UsageError, match="expected one shape"):
        made(vlm, hypernetwork, [seen, frames(30, num_frames=3)])


@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    start_us=st.integers(0, 10**9),
    length_us=st.integers(1, 10**8),
    shape=st.tuples(*[st.integers(1, 3)] * 3),
)
def test_what_is_written_reads_back(
    data: st.DataObject,
    dtype: torch.dtype,
    start_us: int,
    length_us: int,
    shape: tuple[int, int, int],
):
    seed = data.draw(st.integers(0, 99))
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    seen = SeenSegment(
        segment=Segment(start_us=start_us, end_us=start_us + length_us),
        visual_tokens=tokens,
        times_us=tuple(data.draw(st.lists(st.integers(0, 10**9), max_size=3))),
        num_unique_frames=data.draw(st.integers(0, 9)),
        num_corrupt_frames=data.draw(st.integers(0, 9)),
        max_lag_us=data.draw(st.integers(0, 10**9)),
        flags=tuple(data.draw(st.lists(st.sampled_from(list(Reason)), max_size=3))),
    )
    written = seen_bytes(seen, video_id=VIDEO_ID)
    assert written == seen_bytes(seen, video_id=VIDEO_ID)
    found = seen_from_bytes(written, video_id=VIDEO_ID, segment=seen.segment)
    assert torch.equal(found.visual_tokens, tokens)
    assert found.visual_tokens.dtype == dtype
    others = [name for name in SeenSegment.__slots__ if name != "visual_tokens"]
    assert [getattr(found, name) for name in others] == [getattr(seen, name) for name in others]


def test_a_file_about_another_segment_or_video_is_refused():
    seen = seen_segment(frames(0), torch.zeros(2, 1, 4))
    data = seen_bytes(seen, video_id=VIDEO_ID)
    other = frames(30).segment
    with pytest.raises(ValueError, match=r"expected .* of video"):
        seen_from_bytes(data, video_id=VIDEO_ID, segment=other)
    with pytest.raises(ValueError, match=r"expected .* of video"):
        seen_from_bytes(data, video_id="e" * 64, segment=seen.segment)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        seen_from_bytes(data[:-1], video_id=VIDEO_ID, segment=seen.segment)


def test_a_copy_does_not_keep_its_batch_alive():
    batch = torch.zeros(8, 2, 3, 4)
    seen = seen_segment(frames(0), batch[1])
    assert seen.visual_tokens.untyped_storage().nbytes() == 2 * 3 * 4 * 4
