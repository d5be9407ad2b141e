"""Write shapes-world scenes as real H.264 files, for the demo, the exam and the benchmarks."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from video2lora_core.shapes_world.render import draw
from video2lora_core.shapes_world.world import SCENE_US, Scene, World

NOISE_SIGMA = 5.0  # of 255, the grain of a cheap sensor


def write_mp4(
    world: World | Sequence[Scene],
    path: Path,
    *,
    width_px: int = 128,
    height_px: int = 128,
    fps: int = 8,
    noise_sigma: float = NOISE_SIGMA,
    key_frame_every: int | None = None,
    seed: int = 0,
) -> Path:
    """Encode scenes one after the other; memory holds one scene, so any number of them will do.

    Width and height must be even (H.264 4:2:0). A key frame is where the encoder wants one, mostly
    for a new scene, and besides every `key_frame_every` frames. The same arguments give the same
    bytes with the same libx264.
    """
    scenes = world.scenes if isinstance(world, World) else tuple(world)
    if width_px % 2 or height_px % 2:
        raise ValueError(
            f"write_mp4: {width_px} x {height_px} px (expected even numbers); round them"
        )
    times = [index / fps for index in range(SCENE_US * fps // 1_000_000)]
    fractions = [1_000_000 * time / SCENE_US for time in times]
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        # With mbtree, equal pictures gave up to 7 different files of 12 at widths of 48, 64, 80 and
        # 160 px (libx264 of PyAV 18.1, one thread); without it, always the same file.
        often = "" if key_frame_every is None else f":keyint={key_frame_every}:min-keyint=1"
        stream.options = {"preset": "veryfast", "crf": "23", "x264-params": f"mbtree=0{often}"}
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, fps)
        for scene in scenes:
            pictures = draw([scene], [fractions], width_px=width_px, height_px=height_px)
            for picture in _grainy(pictures, noise_sigma, rng):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _grainy(pictures: torch.Tensor, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return frames [frame, height, width, channel] with grain, the same in all channels."""
    pixels = pictures.permute(0, 2, 3, 1).numpy().astype(np.float32)
    grain = rng.standard_normal((*pixels.shape[:3], 1), dtype=np.float32) * sigma
    noisy: np.ndarray = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(noisy)
