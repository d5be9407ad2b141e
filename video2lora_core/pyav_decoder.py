"""The default decoder: PyAV, one sequential pass, frames with their presentation times.

It is the only way found that gave the right frame at every instant of every intact file tried
(22 kinds of container and codec): seeking is off by up to 50 frames on MPEG-TS, MPEG-PS, AVI and
HEVC in every library. Where a codec says which frames others need, only those that a picked frame
needs are decoded (sparse_decoding.py), with the same result.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from itertools import chain, count
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream
from jaxtyping import UInt8

from video2lora_core.container import MAX_FRAME_PIXELS, open_video
from video2lora_core.errors import Reason, VideoError
from video2lora_core.full_decoding import (
    Item,
    PacketCounts,
    Undecoded,
    decoded,
    find_start,
)
from video2lora_core.packet_headers import packet_kinds
from video2lora_core.packets import Failure
from video2lora_core.segment_frames import Damage, DecodedFrame
from video2lora_core.sparse_decoding import SparsePass
from video2lora_core.stream_clock import StreamClock

HDR_TRANSFERS = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})  # PQ and HLG
# After lost packets a decoder gives frames out of order, displaced by one or two.
REORDER_DEPTH = 4


def decoded_frames(
    path: Path,
    *,
    max_pixels: int = MAX_FRAME_PIXELS,
    wanted_us: Sequence[int] | None = None,
    counts: PacketCounts | None = None,
) -> Generator[DecodedFrame | Damage]:
    """Yield the frames of a file from its first to its last.

    Where `wanted_us` says at which instants frames are looked at (ascending, in microseconds after
    the first one), only those on screen then are sure to have a picture. `counts` counts the
    packets.

    Raises:
        VideoError: the file cannot be opened (see `open_video`) or holds no frame (NO_FRAMES,
            UNSUPPORTED_CODEC); always before the first item.
    """
    counts = PacketCounts() if counts is None else counts
    with open_video(path, max_pixels=max_pixels) as (container, stream):
        items = _items(container, stream, wanted_us=wanted_us, counts=counts)
        start = find_start(items, path)
        clock = _Clock(stream, origin=start.origin)
        yield from _in_order(
            clock.damage(item) if isinstance(item, Failure) else clock.frame(item)
            for item in chain(start.failures, [start.frame], items)
        )


def _items(
    container: InputContainer,
    stream: VideoStream,
    *,
    wanted_us: Sequence[int] | None,
    counts: PacketCounts,
) -> Iterator[Item]:
    kinds = packet_kinds(container, stream)
    if wanted_us is None or kinds is None:
        return decoded(container, stream, counts=counts)
    return SparsePass(container, stream, kinds, wanted_us=wanted_us, counts=counts).items()


def upright_rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "height width channel"]:
    """Convert a frame to RGB, turned as it is meant to be seen: FFmpeg's decoder does not.

    Levels stay as they are coded: the brightness of PQ and HLG is not mapped to that of SDR.
    """
    try:
        # By default a small frame takes 40 times as long: threads are started for each conversion.
        stored = frame.to_ndarray(format="rgb24", threads=1)
    except MemoryError:
        raise
    except (FFmpegError, ValueError) as error:
        detail = f"no conversion from {frame.format.name} to RGB"
        raise VideoError(Reason.UNSUPPORTED_CODEC, detail) from error
    return np.ascontiguousarray(np.rot90(stored, k=frame.rotation // 90))


def _no_picture() -> UInt8[np.ndarray, "height width channel"]:
    """Stand for a picture that only damage behind its frame can bring on screen."""
    detail = "what follows a frame that was left out is damaged"
    raise VideoError(Reason.CORRUPT_FRAMES, detail)


def _in_order(items: Iterable[DecodedFrame | Damage]) -> Generator[DecodedFrame | Damage]:
    waiting: list[tuple[int, int, DecodedFrame]] = []
    latest_us = 0
    number = count()
    for item in items:
        if isinstance(item, Damage):
            yield item
            continue
        frame = replace(item, is_displaced=True) if item.t_us < latest_us else item
        latest_us = max(latest_us, frame.t_us)
        heappush(waiting, (frame.t_us, next(number), frame))
        if len(waiting) > REORDER_DEPTH:
            yield heappop(waiting)[-1]
    for *_, frame in sorted(waiting, key=lambda entry: entry[:2]):
        yield frame


class _Clock(StreamClock):
    """Also makes what is told of a frame."""

    def __init__(self, stream: VideoStream, *, origin: int) -> None:
        super().__init__(stream, origin=origin)
        self._size_px = (0, 0)

    def frame(self, frame: av.VideoFrame | Undecoded) -> DecodedFrame:
        t_us, end_us = self.span_us(frame.pts, frame.duration)
        if isinstance(frame, Undecoded):
            width_px, height_px = self._size_px
            return DecodedFrame(
                t_us=t_us,
                end_us=end_us,
                width_px=width_px,
                height_px=height_px,
                is_corrupt=False,
                is_key=False,
                rgb=_no_picture,
            )
        self._size_px = (frame.width, frame.height)
        return DecodedFrame(
            t_us=t_us,
            end_us=end_us,
            width_px=frame.width,
            height_px=frame.height,
            is_corrupt=frame.is_corrupt,
            is_key=frame.key_frame,
            is_hdr=frame.color_trc in HDR_TRANSFERS,
            rgb=partial(upright_rgb, frame),
        )
