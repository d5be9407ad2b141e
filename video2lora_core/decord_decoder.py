"""decord as a declared backend: frames by their timestamps, never by a guessed index.

It is offered because it is widely used, and it is not the default: measured on the same files it
gave wrong frames without a word on MPEG-TS, HEVC, 10-bit video and WMV, and timestamps that mean
nothing on AVI and MPEG-PS. Those are refused here (UNSUPPORTED_CODEC). Two more costs stay: it does
not say where data was lost (no COVERAGE_GAP), and it decodes ahead while it waits. Its wheel exists
for x86_64 only, so it is imported when asked for.
"""

from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from av.video.format import VideoFormat
from jaxtyping import Float, UInt8

from video2lora_core.container import MAX_FRAME_PIXELS
from video2lora_core.errors import Reason, UsageError, VideoError
from video2lora_core.probe import VideoProbe, probe
from video2lora_core.segment_frames import Damage, DecodedFrame

REFUSED_CONTAINERS = frozenset({"mpegts", "mpeg", "mpegvideo", "avi", "asf"})
REFUSED_CODECS = frozenset({"hevc", "wmv1", "wmv2", "wmv3", "vc1"})


def decoded_frames(
    path: Path, *, max_pixels: int = MAX_FRAME_PIXELS, wanted_us: Sequence[int] | None = None
) -> Generator[DecodedFrame | Damage]:
    """Give a file's frames in order; a frame is decoded only when its pixels are asked for.

    So it need not know at which instants frames are looked at (`wanted_us`).

    Raises:
        VideoError: PyAV's probe or decord cannot open the file, or it is of a refused kind; always
            before the first frame.
        UsageError: decord is not installed.
    """
    decord = _import_decord()
    seen = probe(path, max_pixels=max_pixels)
    _refuse(seen, path)
    try:
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
        times_s = reader.get_frame_timestamp(range(len(reader)))
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(Reason.UNSUPPORTED_CODEC, f"{path.name}: decord cannot open it") from error
    for index, (t_us, end_us) in enumerate(_checked_times_us(times_s, path)):
        yield DecodedFrame(
            t_us=t_us,
            end_us=end_us,
            width_px=seen.width_px,
            height_px=seen.height_px,
            is_corrupt=False,
            rgb=partial(_rgb, reader, index, error_type=decord.DECORDError),
        )


def _import_decord() -> Any:
    try:
        import decord
    except ImportError as error:
        raise UsageError(
            "decoder decord: not installed (its wheels are for Linux and Windows on x86_64); "
            "install decord, or use decoder: pyav"
        ) from error
    return decord


def _refuse(seen: VideoProbe, path: Path) -> None:
    depth = max(component.bits for component in VideoFormat(seen.pixel_format).components)
    is_wrong = seen.container in REFUSED_CONTAINERS or seen.codec in REFUSED_CODECS or depth > 8
    if is_wrong:
        detail = (
            f"{path.name}: decord gives wrong frames for {seen.codec} at {depth} bits "
            f"in {seen.container}; use decoder: pyav"
        )
        raise VideoError(Reason.UNSUPPORTED_CODEC, detail)


def _checked_times_us(times_s: Float[np.ndarray, "frame 2"], path: Path) -> list[tuple[int, int]]:
    """Convert decord's (start, end) seconds to microseconds after the first frame."""
    starts = times_s[:, 0].astype(np.float64)
    if not np.isfinite(times_s).all() or (np.diff(starts) <= 0).any():
        detail = f"{path.name}: decord's timestamps do not ascend; use decoder: pyav"
        raise VideoError(Reason.PTS_DISCONTINUITY, detail)
    after_first = np.rint((times_s.astype(np.float64) - starts[0]) * 1e6).astype(np.int64)
    return [(int(start), int(end)) for start, end in after_first]


def _rgb(
    reader: Any, index: int, *, error_type: type[Exception]
) -> UInt8[np.ndarray, "height width channel"]:
    try:
        return np.asarray(reader[index].asnumpy())
    except error_type as error:
        raise VideoError(Reason.CORRUPT_FRAMES, f"decord: frame {index} is damaged") from error
