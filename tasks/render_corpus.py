"""Make a small corpus of the shapes world: mp4 files that no training has seen, and questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video2lora_core.shapes_world import Question, ask_all, sample_world
from video2lora_core.shapes_world.video_files import write_mp4

# Training draws its seeds from 2^40 on; everything below is unseen.
_FIRST_SEED = 500_000_000
# Sizes that a phone, a camera and a screen would give; the model sees 48 x 48 in every case.
_SIZES_PX = ((128, 128), (192, 108), (160, 120), (96, 170))


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedVideo:
    """An mp4 file and what may be asked about it."""

    path: Path
    num_scenes: int
    questions: tuple[Question, ...]


def render_corpus(
    directory: Path, *, seed: int, num_scenes: Sequence[int]
) -> tuple[RenderedVideo, ...]:
    """Write one mp4 per entry of `num_scenes`; a file that is there already is kept.

    Args:
        directory: where the files go.
        seed: another seed, other videos.
        num_scenes: scenes of each video, 4 s each.
    """
    directory.mkdir(parents=True, exist_ok=True)
    return tuple(
        _render(directory, _FIRST_SEED + 1000 * seed + index, scenes, _SIZES_PX[index % 4])
        for index, scenes in enumerate(num_scenes)
    )


def _render(directory: Path, seed: int, num_scenes: int, size_px: tuple[int, int]) -> RenderedVideo:
    world = sample_world(seed, num_scenes=num_scenes)
    path = directory / f"shapes-{seed}-{num_scenes}x4s.mp4"
    if not path.exists():
        partial = path.with_suffix(".partial.mp4")
        write_mp4(world, partial, width_px=size_px[0], height_px=size_px[1], seed=seed)
        partial.replace(path)
    return RenderedVideo(
        path=path, num_scenes=num_scenes, questions=tuple(ask_all(world, seed=seed))
    )
