"""Frames to pixels, against the outputs of the public processors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from video2lora_core.errors import UsageError
from video2lora_core.pixels import PixelSpec, fitted_size, normalise, prepare

GOLDEN = load_file(Path(__file__).parents[1] / "golden/preprocess/frames.safetensors")
SHAPES = ("land", "port", "square")
EDGES = (24, 32, 48)


def prepared(shape: str, edge_px: int, resize: str) -> np.ndarray:
    spec = PixelSpec(longest_edge_px=edge_px, size_px=32, resize=resize)  # type: ignore[arg-type]
    return np.stack([prepare(frame, spec) for frame in GOLDEN[f"{shape}.frames"]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("edge_px", EDGES)
def test_the_pil_path_equals_the_pil_processor_value_for_value(shape: str, edge_px: int):
    expected = GOLDEN[f"{shape}.e{edge_px}.m32.pil_u8"]
    np.testing.assert_array_equal(prepared(shape, edge_px, "pil"), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("edge_px", EDGES)
def test_the_torch_path_equals_the_video_processor_value_for_value(shape: str, edge_px: int):
    expected = GOLDEN[f"{shape}.e{edge_px}.m32.tv_u8"]
    np.testing.assert_array_equal(prepared(shape, edge_px, "torch"), expected)


def test_the_two_paths_differ_by_at_most_three_levels_at_the_models_size():
    noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    frame = np.kron(noise, np.ones((4, 4, 1), dtype=np.uint8))
    specs = [PixelSpec(longest_edge_px=384, size_px=512, resize=r) for r in ("torch", "pil")]
    ours, reference = (prepare(frame, spec).astype(int) for spec in specs)
    difference = np.abs(ours - reference)
    assert difference.max() <= 3
    assert (difference > 0).mean() <= 0.03


def test_normalised_pixels_equal_the_processors():
    levels = torch.from_numpy(GOLDEN["land.e24.m32.pil_u8"])
    expected = GOLDEN["land.e24.m32.pil_float"]
    np.testing.assert_allclose(normalise(levels).numpy(), expected, atol=2e-7, rtol=0)
    assert normalise(levels, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_normalised_pixels_reach_from_minus_one_to_one():
    levels = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1)
    assert normalise(levels).flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("width_px", "height_px", "fitted"),
    [
        (1280, 720, (384, 216)),
        (720, 1280, (216, 384)),
        (640, 480, (384, 288)),
        (1000, 1000, (384, 384)),
        (1920, 800, (384, 160)),
        (1000, 333, (384, 128)),  # 127.87 -> 127, odd -> 128
        (2000, 3, (384, 1)),  # 0.576 -> 0 -> 1
    ],
)
def test_the_longest_edge_is_fitted_and_an_odd_short_side_gets_one_more(
    width_px: int, height_px: int, fitted: tuple[int, int]
):
    assert fitted_size(width_px=width_px, height_px=height_px, edge_px=384) == fitted


@pytest.mark.parametrize("resize", ["torch", "pil"])
def test_a_turned_view_gives_the_pixels_of_its_copy(resize: str):
    spec = PixelSpec(longest_edge_px=24, size_px=16, resize=resize)  # type: ignore[arg-type]
    turned = np.rot90(GOLDEN["land.frames"][0])
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(prepare(turned, spec), prepare(turned.copy(), spec))


@pytest.mark.parametrize("resize", ["torch", "pil"])
def test_preparing_leaves_the_frame_as_it_was(resize: str):
    frame = GOLDEN["square.frames"][0].copy()
    prepare(frame, PixelSpec(longest_edge_px=40, size_px=40, resize=resize))  # type: ignore[arg-type]
    np.testing.assert_array_equal(frame, GOLDEN["square.frames"][0])


def test_a_torch_without_lanczos_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch):
    def without_lanczos(*args: object, **kwargs: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(functional, "interpolate", without_lanczos)
    with pytest.raises(UsageError, match="resize: pil"):
        prepare(GOLDEN["land.frames"][0], PixelSpec(longest_edge_px=24, size_px=16))


@pytest.mark.parametrize("wrong", [{"longest_edge_px": 0}, {"size_px": 0}, {"resize": "bilinear"}])
def test_a_spec_that_makes_no_sense_is_refused(wrong: dict[str, object]):
    with pytest.raises((UsageError, TypeError), match=r"expected|violates|type"):
        PixelSpec(**{"longest_edge_px": 384, "size_px": 512, **wrong})  # type: ignore[arg-type]
