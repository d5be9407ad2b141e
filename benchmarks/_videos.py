"""Small corpora of real mp4 files for benchmarks: one picture stream, as many files as wanted.

Every file gets a `free` box of its own at its end, which players pass over: another file by its
hash, the same frames, and no time lost with encoding.
"""

import struct
from pathlib import Path

from video2lora_core.shapes_world import sample_world
from video2lora_core.shapes_world.video_files import write_mp4

SEED = 700_000_000  # below all training


def write_corpus(
    directory: Path, *, count: int, num_scenes: int = 1, size_px: tuple[int, int] = (128, 128)
) -> list[Path]:
    """Write `count` files of `num_scenes` segments of the embedded default each."""
    directory.mkdir(parents=True, exist_ok=True)
    first = directory / "first.mp4"
    write_mp4(
        sample_world(SEED, num_scenes=num_scenes),
        first,
        width_px=size_px[0],
        height_px=size_px[1],
        seed=SEED,
    )
    content = first.read_bytes()
    first.unlink()
    made = []
    for number in range(count):
        path = directory / f"{number:05}.mp4"
        path.write_bytes(content + struct.pack(">I4sQ", 16, b"free", number))
        made.append(path)
    return made
