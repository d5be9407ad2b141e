"""Keyframe snapping: each instant is shown the nearest key frame, and nothing else is decoded.

An approximation (docs/quality.md says what it costs): a key frame is a picture of its own, so
decoding takes one packet per picture, in any container and codec. How close they lie is the
video's affair: the lag and the number of different frames in a segment's row tell. At equal
distance the earlier one is shown, and the first frame of a video counts as a key frame.

For picking.py a key frame begins half way from the one before it. All packets are read, so where
the data ends is known as in full decoding; damage in what is not decoded is not.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8

from video2lora_core.container import MAX_FRAME_PIXELS, open_video
from video2lora_core.errors import Reason, VideoError
from video2lora_core.full_decoding import (
    PacketCounts,
    Start,
    counted,
    decode_packet,
    decoded_packets,
    drain,
    find_start,
)
from video2lora_core.packets import Failure, VideoPacket, packets
from video2lora_core.pyav_decoder import HDR_TRANSFERS, upright_rgb
from video2lora_core.segment_frames import Damage, DecodedFrame
from video2lora_core.stream_clock import StreamClock


def key_frames(
    path: Path,
    *,
    max_pixels: int = MAX_FRAME_PIXELS,
    wanted_us: Sequence[int],
    counts: PacketCounts | None = None,
) -> Generator[DecodedFrame | Damage]:
    """Yield the key frames of a file, each from the first instant at which it is the nearest.

    One is decoded when its picture is asked for. `wanted_us` are the instants at which frames are
    looked at, ascending, in microseconds after the first frame. `counts` counts the packets.

    Raises:
        VideoError: as `pyav_decoder.decoded_frames`; always before the first item.
    """
    counts = PacketCounts() if counts is None else counts
    with open_video(path, max_pixels=max_pixels) as (container, stream):
        read: list[VideoPacket | Failure] = []
        found = counted(packets(container, stream), counts)
        start = find_start(decoded_packets(_noted(found, read), container, counts), path)
        drain(stream)
        rest = chain((item for item in read if not isinstance(item, Failure)), found)
        yield from _KeyPass(stream, start, wanted_us=wanted_us, counts=counts).items(rest)


def _noted(
    items: Iterable[VideoPacket | Failure], read: list[VideoPacket | Failure]
) -> Iterator[VideoPacket | Failure]:
    for item in items:
        read.append(item)
        yield item


class _Key:
    """A key frame: where it is, from when on it is the nearest, its picture."""

    def __init__(
        self, *, t_us: int, from_us: int, pause_us: int, decode: Callable[[], av.VideoFrame]
    ) -> None:
        self.t_us, self.from_us, self.pause_us = t_us, from_us, pause_us
        self._decode = decode
        self._found: av.VideoFrame | VideoError | None = None

    def load(self) -> av.VideoFrame | VideoError:
        """Decode it, at most once."""
        if self._found is None:
            try:
                self._found = self._decode()
            except VideoError as error:
                self._found = error
        return self._found

    def rgb(self) -> UInt8[np.ndarray, "height width channel"]:
        found = self.load()
        if isinstance(found, VideoError):
            raise found
        return upright_rgb(found)


class _KeyPass:
    """The key frame that is nearest now, and how far the data reaches."""

    def __init__(
        self, stream: VideoStream, start: Start, *, wanted_us: Sequence[int], counts: PacketCounts
    ) -> None:
        self._stream, self._first, self._counts = stream, start.frame, counts
        self._failures = start.failures
        self._last_wanted_us = max(wanted_us, default=0)
        self._clock = StreamClock(stream, origin=start.origin)
        first_us, self._end_us = StreamClock(stream, origin=start.origin).span_us(
            start.frame.pts, start.frame.duration
        )
        self._begun_us, self._pause_us = first_us, 0
        self._nearest = _Key(
            t_us=first_us, from_us=first_us, pause_us=0, decode=lambda: start.frame
        )

    def items(self, found: Iterable[VideoPacket | Failure]) -> Iterator[DecodedFrame | Damage]:
        """Yield each key frame once the next is known."""
        yield from map(self._clock.damage, self._failures)
        for item in found:
            if isinstance(item, Failure):
                yield self._clock.damage(item)
            elif item.size:
                yield from self._read(item)
        if self._nearest.from_us <= self._last_wanted_us:
            self._nearest.load()  # the file is closed when its picture is asked for
        yield self._told(self._nearest)

    def _read(self, packet: VideoPacket) -> Iterator[DecodedFrame]:
        t_us, end_us = self._clock.span_us(packet.pts, packet.duration)
        self._pause_us = max(self._pause_us, t_us - self._begun_us)
        last = self._nearest
        if packet.is_keyframe and not packet.is_discard and t_us > last.t_us:
            yield self._told(last)
            self._nearest = _Key(
                t_us=t_us,
                from_us=(last.t_us + t_us) // 2 + 1,
                pause_us=self._pause_us,
                decode=partial(self._decode, packet, t_us=t_us),
            )
            self._pause_us = 0
        self._begun_us = max(self._begun_us, t_us)
        self._end_us = max(self._end_us, end_us)

    def _told(self, key: _Key) -> DecodedFrame:
        return DecodedFrame(
            t_us=key.from_us,
            end_us=self._end_us,
            picture_us=key.t_us,
            pause_us=key.pause_us,
            width_px=self._first.width,
            height_px=self._first.height,
            is_corrupt=False,
            is_hdr=self._first.color_trc in HDR_TRANSFERS,
            rgb=key.rgb,
        )

    def _decode(self, packet: VideoPacket, *, t_us: int) -> av.VideoFrame:
        frames = decode_packet(packet, self._counts) or []
        frames += drain(self._stream) or []
        if not frames or frames[0].is_corrupt:
            detail = f"the key frame at {t_us / 1e6:.3f} s is damaged"
            raise VideoError(Reason.CORRUPT_FRAMES, detail)
        return frames[0]
