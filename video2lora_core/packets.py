"""Reading a container packet by packet: past what is damaged, and noticing what has vanished.

A transport stream marks the packet after a break. Matroska, WebM, IVF and FLV resume behind a
damaged stretch without a word, and VP9 goes on without its reference frames: the only sign left is
the position, bytes between two packets that belong to none. All streams are read for that, because
sound explains bytes too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from av.container import InputContainer
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from video2lora_core.memory_limit import is_exhausted

if TYPE_CHECKING:
    VideoPacket = Packet[VideoStream]
else:
    VideoPacket = Packet  # generic in the stubs only

# A demuxer that fails this often without a packet in between has lost the file.
MAX_READ_FAILURES = 64
# Nothing but headers lies between their packets; a transport stream would have stuffing there.
DENSE_CONTAINERS = frozenset({"matroska,webm", "ivf", "flv", "nut"})
HEADER_BYTES, HEADER_BYTES_PER_PACKET = 512, 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A stretch of a stream that is damaged or missing.

    Attributes:
        pts: presentation time of its begin in the stream's time base, None where unknown.
        duration: in the stream's time base, None or 0 where unknown.
        is_lost: there was a packet and it gave no frame. Otherwise something between two packets
            has vanished, and how much is unknown.
    """

    pts: int | None
    duration: int | None
    is_lost: bool = True


def packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket | Failure]:
    """Yield each packet of the stream, reading on after what cannot be read; the last is empty."""
    ruler = _Ruler(is_dense=container.format.name in DENSE_CONTAINERS)
    num_failures = 0
    found = container.demux()
    while num_failures < MAX_READ_FAILURES:
        try:
            packet = cast(VideoPacket, next(found))
        except (StopIteration, EndOfFile):
            return
        except IndexError:
            # PyAV stumbles over a stream that appeared on the way, after it has flushed this one.
            return
        except FFmpegError as error:
            if isinstance(error, MemoryError) and is_exhausted():
                raise
            num_failures += 1
            yield Failure(pts=None, duration=None)
            found = container.demux()
            continue
        num_failures = 0
        if packet.stream_index != stream.index:
            ruler.pass_by(packet)
            continue
        vanished = ruler.measure(packet)
        if vanished is not None:
            yield vanished
        yield packet


class _Ruler:
    """Compares how far a packet lies behind the one before it with the bytes in between."""

    def __init__(self, *, is_dense: bool) -> None:
        self._is_dense = is_dense
        self._pos: int | None = None
        self._pts: int | None = None
        self._explained_bytes = 0

    def pass_by(self, packet: VideoPacket) -> None:
        """Note a packet of another stream."""
        self._explained_bytes += packet.size + HEADER_BYTES_PER_PACKET

    def measure(self, packet: VideoPacket) -> Failure | None:
        """Note a packet of this stream; say where something before it has vanished."""
        before_pts = self._pts
        has_vanished = packet.is_corrupt or (self._is_dense and self._has_unexplained(packet))
        self._pos, self._pts = packet.pos, packet.pts
        self._explained_bytes = packet.size + HEADER_BYTES_PER_PACKET
        if not has_vanished or before_pts is None or packet.pts is None:
            return None
        begin, end = sorted((before_pts, packet.pts))
        return Failure(pts=begin, duration=end - begin, is_lost=False)

    def _has_unexplained(self, packet: VideoPacket) -> bool:
        if self._pos is None or packet.pos is None:
            return False
        return packet.pos - self._pos > self._explained_bytes + HEADER_BYTES
