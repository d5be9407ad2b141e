"""Decoding only what picked frames need, with the same result as decoding everything.

Between two clean key packets (packet_headers.py) lies a group that is decoded by itself: up to the
last packet, in the order of the file, whose frame is picked, and without the packets that no other
needs. A group nobody looks into is not decoded at all. Frames that are not decoded are still told,
as `Undecoded`, so that whoever counts and measures frames sees all of them.

Nothing of a group is given out before it has kept every promise: each packet sent gave one whole
frame, in order and of the usual size. At the first sign of damage, in the container or from the
decoder, the group before (so that the decoder refers to what it would have referred to) and this
one are decoded in full, and so is the rest of the file. What stays unseen is damage inside packets
that nobody needed, as long as it leaves their headers alone.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from video2lora_core.full_decoding import (
    Item,
    PacketCounts,
    Undecoded,
    ceil_us,
    counted,
    decode_packet,
    decoded_packets,
    drain,
)
from video2lora_core.packet_groups import Doubt, Group, pts_of
from video2lora_core.packet_headers import Kinds, PacketKind
from video2lora_core.packets import Failure, VideoPacket, packets

# A group with more picked frames than this holds, at 3 bytes a pixel, is decoded as it comes.
MAX_HELD_BYTES = 256 * 1024**2


class SparsePass:
    """One pass over a stream: the group being read, the one before, what is known of the rest.

    `wanted_us` are the instants at which a frame is looked at, ascending, in microseconds after the
    first frame, which is always decoded.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        kinds: Kinds,
        *,
        wanted_us: Sequence[int],
        counts: PacketCounts,
    ) -> None:
        self._container, self._stream, self._kinds = container, stream, kinds
        self._wanted_us, self._counts = wanted_us, counts
        self._found = counted(packets(container, stream), counts)
        self._unread: VideoPacket | Failure | None = None
        self._before, self._group = Group(), Group()
        self._held: list[av.VideoFrame | Undecoded] = []
        self._headers: bytes | None = None
        self._origin: int | None = None
        self._latest: int | None = None
        self._size_px: tuple[int, int] | None = None

    def items(self) -> Iterator[Item]:
        """Yield every frame in order, decoded where it is on screen at a wanted instant."""
        try:
            for item in self._found:
                self._unread = item
                yield from self._read(item)
        except Doubt:
            yield from self._in_full()

    def _read(self, item: VideoPacket | Failure) -> Iterator[Item]:
        if isinstance(item, Failure):
            raise Doubt
        if item.size == 0:
            yield from self._close(until=None)
            yield from self._held
            return
        kind = self._kind(item)
        if kind.is_clean_key:
            yield from self._close(until=item)
        elif not self._group.num_bytes:
            raise Doubt  # the stream begins with something else
        self._unread = None
        self._group.add(item, kind)
        if self._group.is_sent:
            yield from self._send(self._group.release())

    def _kind(self, packet: VideoPacket) -> PacketKind:
        kind = self._kinds(packet)
        is_odd = packet.pts is None or packet.is_corrupt or packet.has_sidedata("new_extradata")
        if kind is None or is_odd:
            raise Doubt
        if self._headers is None:
            self._headers = kind.headers
        if kind.headers not in (b"", self._headers):
            raise Doubt  # another size, perhaps
        return kind

    def _close(self, *, until: VideoPacket | None) -> Iterator[Item]:
        """Give out the group that ends before `until`, or with the file."""
        group = self._group
        if not group.num_bytes:
            return
        picked = set() if group.is_sent else self._picked(group, until)
        if group.is_sent:
            yield from self._send(group.release())
            yield from self._checked(self._drained())
        else:
            yield from self._sparse(group, picked)
        self._before, self._group = group, Group()

    def _picked(self, group: Group, until: VideoPacket | None) -> set[int]:
        """Return the presentation times of the frames to decode.

        Where some are not to be shown (an edit list), or more are picked than should be held, the
        group is marked to be sent instead.
        """
        if any(packet.is_discard for packet in group.packets):
            group.is_sent = True
            return set()
        first = pts_of(group.packets[0])
        self._origin = first if self._origin is None else self._origin
        picked = group.picked(self._wanted_us, until=until, to_us=self._us)
        if self._latest is None:
            picked |= {first}
        elif first <= self._latest:
            raise Doubt
        frame_bytes = self._stream.width * self._stream.height * 3
        group.is_sent = len(picked) * frame_bytes > MAX_HELD_BYTES
        return picked

    def _sparse(self, group: Group, picked: set[int]) -> Iterator[Item]:
        """Decode what the picked frames need; the last frame of the group waits for the next."""
        frames = self._decode(group.needed(picked), picked) if picked else {}
        items: list[av.VideoFrame | Undecoded] = [
            frames.get(pts_of(packet)) or Undecoded(pts=pts_of(packet), duration=packet.duration)
            for packet in group.in_order()
        ]
        yield from self._held
        yield from items[:-1]
        self._held = items[-1:]
        self._latest = pts_of(group.in_order()[-1])

    def _decode(self, sent: Sequence[VideoPacket], picked: set[int]) -> dict[int, av.VideoFrame]:
        """Return the picked frames by presentation time; each packet must give its frame."""
        expected = sorted((pts_of(packet), packet.duration) for packet in sent)
        given: list[tuple[int | None, int]] = []
        frames: dict[int, av.VideoFrame] = {}
        for frame in self._given(sent):
            given.append((frame.pts, frame.duration))
            if not self._is_whole(frame):
                raise Doubt
            if frame.pts in picked:
                frames[frame.pts] = frame
        if given != expected:
            raise Doubt
        return frames

    def _given(self, sent: Sequence[VideoPacket]) -> Iterator[av.VideoFrame]:
        for packet in sent:
            frames = decode_packet(packet, self._counts)
            if frames is None:
                raise Doubt
            yield from frames
        yield from self._drained()

    def _drained(self) -> list[av.VideoFrame]:
        """Return the frames that the decoder still holds, and let it begin anew."""
        frames = drain(self._stream)
        if frames is None:
            raise Doubt
        return frames

    def _is_whole(self, frame: av.VideoFrame) -> bool:
        size_px = (frame.width, frame.height)
        self._size_px = self._size_px or size_px
        return not frame.is_corrupt and size_px == self._size_px

    def _send(self, sent: Sequence[VideoPacket]) -> Iterator[Item]:
        yield from self._held
        self._held = []
        yield from self._checked(decoded_packets(sent, self._container, self._counts))

    def _checked(self, items: Iterable[av.VideoFrame | Failure]) -> Iterator[Item]:
        """Pass on what full decoding gives; after damage there is nothing else."""
        is_doubtful = False
        for item in items:
            is_doubtful = is_doubtful or not self._is_next(item)
            yield item
        if is_doubtful:
            raise Doubt

    def _is_next(self, item: av.VideoFrame | Failure) -> bool:
        if isinstance(item, Failure) or item.pts is None or not self._is_whole(item):
            return False
        is_late = self._latest is not None and item.pts <= self._latest
        self._latest = item.pts
        self._origin = item.pts if self._origin is None else self._origin
        return not is_late

    def _in_full(self) -> Iterator[av.VideoFrame | Failure]:
        """Decode on without leaving anything out, as if nothing had been left out before.

        The frame that waits is given as the decoder has it now: where the next are damaged, it
        stays on screen.
        """
        again: list[VideoPacket] = []
        if not self._group.is_sent:
            again = self._before.packets
            if self._counts.num_decoded:
                self._stream.codec_context.flush_buffers()
        told = {packet.pts for packet in again} - {frame.pts for frame in self._held}
        unread = [] if self._unread is None else [self._unread]
        rest = chain(again, self._group.packets, unread, self._found)
        for item in decoded_packets(rest, self._container, self._counts):
            if isinstance(item, Failure) or item.pts not in told:
                yield item
            told.discard(item.pts)

    def _us(self, pts: int) -> int:
        assert self._stream.time_base is not None
        assert self._origin is not None
        return ceil_us(pts - self._origin, self._stream.time_base)
