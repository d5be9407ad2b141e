"""Small videos made with PyAV alone; each frame's picture says its number.

The number is a 16-bit barcode in the top rows (block i is white where bit i is set), so what a
decoder returns tells which frame it took. Damaged files are made from the bytes of good ones.
"""

import random
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream

FPS = 8
NUM_FRAMES = 80
DURATION_US = NUM_FRAMES * 1_000_000 // FPS
NUM_BITS = 16

# A key frame every 2 s, two B-frames; one thread, because the tests share the machine.
H264 = {"g": "16", "bf": "2", "preset": "veryfast", "sc_threshold": "0"}
HEVC = {"x265-params": "keyint=16:bframes=2:log-level=none:pools=none", "preset": "ultrafast"}
AV1 = {"preset": "12", "g": "16", "svtav1-params": "lp=1"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "16"}


def picture(number: int, *, width_px: int = 96, height_px: int = 96) -> np.ndarray:
    """Draw frame `number`: its barcode above a grey that drifts with it."""
    frame = np.full((height_px, width_px, 3), 40 + number % 160, dtype=np.uint8)
    block_px = width_px // NUM_BITS
    for bit in range(NUM_BITS):
        frame[: height_px // 4, bit * block_px : (bit + 1) * block_px] = 235 * (number >> bit & 1)
    frame[height_px // 2 :, : width_px // 2, 1] = number * 7 % 256
    return frame


def read_number(frame: np.ndarray) -> int:
    """Read the barcode of an upright [channel, height, width] frame."""
    _, height_px, width_px = frame.shape
    block_px = width_px // NUM_BITS
    strip = frame[:, 2 : height_px // 4 - 2].mean(axis=(0, 1))
    blocks = strip[: block_px * NUM_BITS].reshape(NUM_BITS, block_px)[:, 1:-1].mean(axis=1)
    return sum(int(level > 128) << bit for bit, level in enumerate(blocks))


def as_stored(frame: np.ndarray) -> np.ndarray:
    """A `prepare` that changes no pixel."""
    return np.ascontiguousarray(frame.transpose(2, 0, 1))


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] = H264,
    container: str | None = None,
    container_options: Mapping[str, str] | None = None,
    numbers: Sequence[int] = range(NUM_FRAMES),
    fps: Fraction | int = FPS,
    times_us: Sequence[int] | None = None,
    size_px: tuple[int, int] = (96, 96),
    pixel_format: str = "yuv420p",
    rotation_deg: int = 0,
    pixel_aspect: Fraction | None = None,
    transfer: ColorTrc | None = None,
) -> Path:
    """Write a video; `times_us` gives each frame its own time, else they follow at `fps`."""
    target = av.open(
        str(path), "w", format=container, container_options=dict(container_options or {})
    )
    with target:
        stream = target.add_stream(codec, rate=fps, options=dict(options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size_px
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if times_us is not None:
            stream.codec_context.time_base = Fraction(1, 90_000)
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        for index, number in enumerate(numbers):
            image = picture(number, width_px=size_px[0], height_px=size_px[1])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = index
            if times_us is not None:
                frame.pts, frame.time_base = times_us[index] * 9 // 100, Fraction(1, 90_000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def mangled(content: bytes, rng: random.Random) -> bytes:
    """Cut off, overwrite or take out a stretch, or change single bytes."""
    begin = rng.randrange(len(content))
    end = min(len(content), begin + rng.randrange(1, 2000))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:begin]
    if kind == 1:
        return content[:begin] + content[end:]
    if kind == 2:
        return content[:begin] + rng.randbytes(end - begin) + content[end:]
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 40)):
        changed[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(changed)
