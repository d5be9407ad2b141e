"""From packets to frames, all of them: what the decoder gives, and what it cannot decode.

Probing reads its first frame here; sparse decoding (sparse_decoding.py) comes back to it at the
first sign of damage.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.video.stream import VideoStream

from video2lora_core.errors import Reason, VideoError
from video2lora_core.memory_limit import is_exhausted
from video2lora_core.packets import Failure, VideoPacket, packets

# A recording of these may be joined between two key frames: what comes before the first one is no
# damage. Elsewhere it is; and a damaged key frame is not marked as one.
JOINABLE_CONTAINERS = frozenset({"mpegts", "mpeg", "mpegvideo", "h264", "hevc", "m4v"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """How a stream begins.

    Attributes:
        origin: the presentation time that counts as 0, in the stream's time base.
        failures: what failed before the first frame.
        frame: the first frame.
    """

    origin: int
    failures: tuple[Failure, ...]
    frame: av.VideoFrame


@dataclass(frozen=True, kw_only=True, slots=True)
class Undecoded:
    """A frame that sparse decoding left out; times in the stream's time base."""

    pts: int
    duration: int | None


Item = av.VideoFrame | Undecoded | Failure


@dataclass(kw_only=True, slots=True)
class PacketCounts:
    """How many packets of the video stream a pass has met.

    Attributes:
        num_read: found in the container.
        num_decoded: given to the decoder.
    """

    num_read: int = 0
    num_decoded: int = 0


def decoded(
    container: InputContainer, stream: VideoStream, *, counts: PacketCounts | None = None
) -> Iterator[av.VideoFrame | Failure]:
    """Yield each frame as the decoder gives it, and each damaged packet."""
    counts = PacketCounts() if counts is None else counts
    yield from decoded_packets(counted(packets(container, stream), counts), container, counts)


def counted(
    items: Iterable[VideoPacket | Failure], counts: PacketCounts
) -> Iterator[VideoPacket | Failure]:
    """Pass packets on and count those that hold anything."""
    for item in items:
        counts.num_read += not isinstance(item, Failure) and item.size > 0
        yield item


def decoded_packets(
    items: Iterable[VideoPacket | Failure],
    container: InputContainer,
    counts: PacketCounts,
) -> Iterator[av.VideoFrame | Failure]:
    """Decode packets one by one; an empty one asks for the frames that the decoder still holds."""
    has_begun = container.format.name not in JOINABLE_CONTAINERS
    for packet in items:
        if isinstance(packet, Failure):
            yield packet
            continue
        has_begun = has_begun or packet.is_keyframe
        frames = decode_packet(packet, counts)
        if frames is None and has_begun and not packet.is_discard:
            yield Failure(pts=packet.pts, duration=packet.duration)
        yield from frames or []


def decode_packet(packet: VideoPacket, counts: PacketCounts) -> list[av.VideoFrame] | None:
    """Give one packet to the decoder; return the frames that come out, None where it fails."""
    counts.num_decoded += packet.size > 0
    try:
        return packet.decode()
    except EndOfFile:
        return []
    except FFmpegError as error:
        if isinstance(error, MemoryError) and is_exhausted():
            raise
        return None


def drain(stream: VideoStream) -> list[av.VideoFrame] | None:
    """Return the frames that the decoder still holds, None where it fails; it begins anew."""
    try:
        return stream.codec_context.decode(None)
    except EndOfFile:
        return []
    except FFmpegError as error:
        if isinstance(error, MemoryError) and is_exhausted():
            raise
        return None
    finally:
        stream.codec_context.flush_buffers()


def find_start(items: Iterator[Item], path: Path) -> Start:
    """Read up to the first frame; time 0 is there, or at the first damaged packet before it.

    Raises:
        VideoError: there is no frame.
    """
    failures: list[Failure] = []
    for item in items:
        if isinstance(item, Failure):
            failures.append(item)
            continue
        assert not isinstance(item, Undecoded)  # the first is never left out
        lost = [failure.pts for failure in failures if failure.is_lost]
        origin = min([item.pts or 0, *(pts for pts in lost if pts is not None)])
        return Start(origin=origin, failures=tuple(failures), frame=item)
    num_lost = sum(failure.is_lost for failure in failures)
    if num_lost and is_exhausted():
        # After a frame that found no memory H.264 says of the next ones that they are damaged.
        raise MemoryError(f"none of {num_lost} packets could be decoded")
    if num_lost:
        detail = f"{path.name}: none of {num_lost} packets could be decoded"
        raise VideoError(Reason.UNSUPPORTED_CODEC, detail)
    raise VideoError(Reason.NO_FRAMES, f"{path.name}: the video stream holds no frame")


def ceil_us(time: int, time_base: Fraction) -> int:
    """Convert a stream time to microseconds, rounding up: the first instant that has reached it."""
    return -(-time * time_base.numerator * 1_000_000 // time_base.denominator)


def usual_duration(stream: VideoStream) -> int:
    """Return how long a frame lasts by the stream's rate, in its time base; 0 where unknown."""
    rate = stream.guessed_rate or stream.average_rate
    assert stream.time_base is not None
    return math.ceil(1 / (rate * stream.time_base)) if rate else 0
