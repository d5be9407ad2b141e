"""Shapes-world videos as H.264 files: they last, count and look as their scenes say."""

from pathlib import Path

import av
import numpy as np
import pytest

from video2lora_core.frames import probe
from video2lora_core.shapes_world import SCENE_US, World, sample_world
from video2lora_core.shapes_world.render import draw
from video2lora_core.shapes_world.video_files import write_mp4

FPS = 8
FRAMES_PER_SCENE = SCENE_US * FPS // 1_000_000


@pytest.fixture(scope="module")
def world() -> World:
    return sample_world(7, num_scenes=2, two_things=1.0)


@pytest.fixture(scope="module")
def clean(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's file without grain."""
    path = tmp_path_factory.mktemp("clean") / "video.mp4"
    return write_mp4(world, path, width_px=96, height_px=64, noise_sigma=0.0)


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.float32)


def psnr_db(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one - other) ** 2)))


def test_a_file_lasts_as_long_as_its_scenes(clean: Path, world: World) -> None:
    found = probe(clean)
    assert found.duration_us == world.duration_us == 2 * SCENE_US
    assert (found.width_px, found.height_px) == (96, 64)
    assert found.codec == "h264"


def test_every_frame_looks_as_it_was_drawn(clean: Path, world: World) -> None:
    moments = [index / FRAMES_PER_SCENE for index in range(FRAMES_PER_SCENE)]
    drawn = draw(world.scenes, [moments] * 2, width_px=96, height_px=64)
    pictures = drawn.permute(0, 2, 3, 1).numpy().astype(np.float32)
    frames = decoded(clean)
    assert frames.shape == pictures.shape
    quality_db = [psnr_db(one, other) for one, other in zip(frames, pictures, strict=True)]
    assert min(quality_db) > 26
    # A frame is nearer to its own moment than to one half a second later.
    for index in range(0, len(frames) - 4, 5):
        if not np.array_equal(pictures[index], pictures[index + 4]):
            assert quality_db[index] > psnr_db(frames[index], pictures[index + 4])


def test_the_grain_has_the_strength_asked_for_and_is_grey(world: World, tmp_path: Path) -> None:
    path = write_mp4(world, tmp_path / "grainy.mp4", noise_sigma=12.0, seed=3)
    pixels = decoded(path)[0]
    ground = np.median(pixels, axis=(0, 1))
    corner = pixels[:16, :16] - ground  # coding takes some of it away
    assert 4.0 < corner.std() < 14.0


def test_the_same_arguments_give_the_same_bytes(world: World, tmp_path: Path) -> None:
    files = set()
    for attempt in range(6):
        path = write_mp4(world, tmp_path / f"{attempt}.mp4", width_px=160, height_px=120, seed=5)
        files.add(path.read_bytes())
    assert len(files) == 1
    path = write_mp4(world, tmp_path / "other.mp4", width_px=160, height_px=120, seed=6)
    assert path.read_bytes() not in files


def test_scenes_without_a_world_can_be_written(tmp_path: Path) -> None:
    path = write_mp4(
        sample_world(1, num_scenes=3).scenes,
        tmp_path / "long.mp4",
        width_px=32,
        height_px=32,
        fps=2,
    )
    assert probe(path).duration_us == 3 * SCENE_US
    assert len(decoded(path)) == 3 * 8


@pytest.mark.parametrize(("width_px", "height_px"), [(47, 48), (48, 47)])
def test_an_odd_size_is_refused(
    world: World, tmp_path: Path, width_px: int, height_px: int
) -> None:
    with pytest.raises(
        ValueError, match=rf"write_mp4: {width_px} x {height_px} px \(expected even"
    ):
        write_mp4(world, tmp_path / "odd.mp4", width_px=width_px, height_px=height_px)
    assert not (tmp_path / "odd.mp4").exists()
