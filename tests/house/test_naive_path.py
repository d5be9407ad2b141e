"""The naive form of the whole path equals ours, and the small benchmarks run from end to end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import _naive_path, decoding, preprocess
from benchmarks._memory import peak_bytes
from benchmarks._pairs import TOLERANCE, measure
from benchmarks._sizes import naive_of
from benchmarks._verdict import at_least, at_most
from benchmarks.corpus_size import interval, marginal_costs, slopes
from benchmarks.hypernetwork import bf16_errors, contests, decoder_peaks, streamed
from benchmarks.hypernetwork import judge as judge_hypernetwork
from benchmarks.stages import measured_stages, shape_of, throughput
from configs.load import load_model_config
from tasks.models import LoadedModel, load_model
from video2lora_core.encoder import embed
from video2lora_core.frames import SegmentFrames
from video2lora_core.hypernetwork import HypernetworkConfig, TargetModule
from video2lora_core.internalize import collate_pixels, collate_prompts, internalize
from video2lora_core.pixels import PixelSpec
from video2lora_core.random_model import random_hypernetwork
from video2lora_core.segments import Segment, frame_times


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(load_model_config("tiny"))


@pytest.fixture(scope="module")
def frames() -> SegmentFrames:
    segment = Segment(start_us=0, end_us=4_000_000)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, 48, 48), dtype=np.uint8)
    return SegmentFrames(
        segment=segment,
        pixels=pixels,
        times_us=frame_times(segment, num_frames=8),
        num_unique_frames=8,
        num_corrupt_frames=0,
    )


def small() -> Any:
    config = HypernetworkConfig(
        d_model=48,
        layers=(0, 1, 2),
        modules=(TargetModule(name="down_proj", d_in=64, d_out=48),),
        rank=4,
        scaling=1.0,
        d_latent=64,
        num_cross_blocks=3,
    )
    return random_hypernetwork(config, seed=0)


def test_from_frames_to_factors_both_ways_agree(model: LoadedModel, frames: SegmentFrames) -> None:
    vlm, layers = model.vlm, list(model.hypernetwork.config.layers)
    naive = naive_of(model.hypernetwork)
    levels = torch.from_numpy(frames.pixels).float()
    pixel_values = ((levels / 255 - 0.5) / 0.5)[None]
    mask = torch.ones(1, 8, 48, 48, dtype=torch.int64)
    ids, _ = collate_prompts(vlm, [frames])
    x = _naive_path.features(vlm.model, ids, pixel_values, mask)[:, layers]
    made = naive(x)
    (ours,) = internalize(vlm, model.hypernetwork, [frames], checkpoint_sha256="0" * 64)
    for name, factors in ours.factors.items():
        for expected, found in zip(made[name], (factors.a, factors.b), strict=True):
            scale = expected.abs().max()
            torch.testing.assert_close(found / scale, expected[0] / scale, atol=1e-5, rtol=0)
    whole = naive.combined(made)["down_proj"][0]
    assert whole.shape[2] == 2 * model.hypernetwork.config.rank
    bias = model.bias()["down_proj"].a
    torch.testing.assert_close(whole[0, :, model.hypernetwork.config.rank :], bias)


def test_the_hypernetworks_contests_agree_and_are_judged() -> None:
    hypernetwork = small()
    x = torch.randn(1, 3, 20, 48, generator=torch.Generator().manual_seed(0))
    outcomes = [measure(contest, num_pairs=1) for contest in contests(hypernetwork, x)]
    assert all(outcome.deviation <= TOLERANCE for outcome in outcomes)
    errors = bf16_errors(hypernetwork, x)
    assert 0 < errors["ours"] < 1.2 * errors["naive"]
    assert streamed(hypernetwork, x.bfloat16())["down_proj"][0].shape == (1, 3, 4, 64)
    peaks = {"naive": 8, "ours": 1, "vision": 1, "naive_after_vision": 8, "ours_after_vision": 1}
    verdicts = judge_hypernetwork(outcomes, errors, peaks)
    assert verdicts[-1].is_met
    assert len(verdicts) == 5


def test_bytes_are_counted_exactly_and_once() -> None:
    x = torch.ones(1000)

    def two_at_once() -> torch.Tensor:
        a = x + 1
        b = a * 2
        del a
        return b.view(10, 100) + 1

    assert peak_bytes(two_at_once) == 8000
    assert peak_bytes(lambda: [x + 1 for _ in range(5)]) == 20_000
    assert peak_bytes(lambda: x.view(10, 100).T) == 0


def test_ours_needs_less_memory_after_the_vision_tower(
    model: LoadedModel, frames: SegmentFrames
) -> None:
    vlm, hypernetwork = model.vlm, model.hypernetwork
    ids, _ = collate_prompts(vlm, [frames])
    embeddings = embed(vlm, pixels=collate_pixels([frames]), input_ids=ids)
    peaks = decoder_peaks(vlm, hypernetwork, naive_of(hypernetwork), embeddings)
    assert 0 < peaks["ours"] < peaks["naive"]


@pytest.mark.parametrize("size", [(96, 54), (54, 96), (50, 50), (1, 40)])
def test_the_naive_pixels_are_those_of_our_pil_path(size: tuple[int, int]) -> None:
    width_px, height_px = size
    spec = PixelSpec(longest_edge_px=48, size_px=32)
    pictures = preprocess.pictures(2, width_px=width_px, height_px=height_px)
    exact = preprocess.plainly(pictures, spec)
    torch.testing.assert_close(preprocess.ours(pictures, spec, "pil"), exact, atol=1e-6, rtol=0)


def test_sparse_decoding_gives_the_naive_frames_from_fewer_packets(tmp_path: Path) -> None:
    path = decoding.write_film(tmp_path / "a.mp4", seconds=10, size_px=(96, 64), key_s=2)
    whole = Segment(start_us=0, end_us=10_000_000)
    film = decoding.measure_film(path, whole, subject="small", num_pairs=1)
    packets = film["packets"]
    assert packets["naive"] == 250
    assert packets["keyframes"] < packets["sparse"] < 0.75 * 250
    assert [row["part"] for row in decoding.rows([film])] == ["sparse", "keyframes"]
    assert len(decoding.judge([film])) == 2


def test_every_stage_runs_both_ways(model: LoadedModel, tmp_path: Path) -> None:
    frames, seconds = measured_stages(model, tmp_path, num_frames=8, num_pairs=2)
    names = {"probe", "decode", "vision", "perceiver blocks", "save", "compose 8", "answer"}
    assert names <= set(seconds)
    assert {len(times) for ways in seconds.values() for times in ways.values()} == {2}
    assert set(seconds["answer"]) == {"naive", "ours"}
    found = throughput(model, frames, batches=(1, 2), num_pairs=1, side=64)
    assert [row["batch_segments"] for row in found["rows"]] == [1, 2]
    assert found["flop_per_segment"] > 1e6
    assert shape_of(model, frames)["num_tokens"] == 47


def test_costs_per_video_leave_the_fixed_part_out() -> None:
    flat = {n: {"cpu_s": 3.0 + 0.05 * n} for n in (10, 100, 1000)}
    growing = {n: {"cpu_s": 3.0 + 0.05 * n + 1e-4 * n * n} for n in (10, 100, 1000)}
    assert marginal_costs(flat) == pytest.approx({100: 0.05, 1000: 0.05})
    assert slopes([flat]) == pytest.approx([0.0])
    assert slopes([growing])[0] > 0.5
    low, high = interval([0.1, -0.1, 0.05, -0.05, 0.0])
    assert low < 0 < high
    assert interval([0.3, 0.31, 0.32])[0] > 0


def test_a_bar_is_met_on_its_own_side() -> None:
    assert at_least("speed", 3.0, 3.0).is_met
    assert not at_least("speed", 2.9, 3.0).is_met
    assert at_most("memory", 0.2, 0.25).is_met
    assert not at_most("memory", 0.3, 0.25).is_met
