"""Groups of packets that can be decoded by themselves, and which of them picked frames need.

A group begins with a clean key packet (packet_headers.py) and ends before the next: within it every
presentation time is known, so which frame is on screen at an instant is known before anything is
decoded. The rule is that of picking.py: the last frame that starts at or before the instant.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from video2lora_core.packet_headers import PacketKind
from video2lora_core.packets import VideoPacket

# A longer group is decoded whole, as it comes: it is not held to see how it goes on.
MAX_GROUP_PACKETS = 1024
MAX_GROUP_BYTES = 32 * 1024**2
_FOREVER_US = 1 << 62


class Doubt(Exception):  # noqa: N818  # no error: full decoding says what it is
    """The file may be damaged, or is unlike what was proven."""


@dataclass(slots=True)
class Group:
    """The packets from a clean key packet up to the next.

    Attributes:
        packets: those that are held, in the order of the file.
        kinds: what each says of itself.
        num_bytes: how much all of them are, also those held no longer.
        is_sent: the decoder gets each packet as it comes; none is held.
    """

    packets: list[VideoPacket] = field(default_factory=list)
    kinds: list[PacketKind] = field(default_factory=list)
    num_bytes: int = 0
    is_sent: bool = False

    def add(self, packet: VideoPacket, kind: PacketKind) -> None:
        """Take the next packet; a group that has become too long is to be sent."""
        self.packets.append(packet)
        self.kinds.append(kind)
        self.num_bytes += packet.size
        is_long = len(self.packets) > MAX_GROUP_PACKETS or self.num_bytes > MAX_GROUP_BYTES
        self.is_sent = self.is_sent or is_long

    def release(self) -> list[VideoPacket]:
        """Hand over what is held, to be sent; nothing is held from now on."""
        held, self.packets, self.kinds = self.packets, [], []
        self.is_sent = True
        return held

    def in_order(self) -> list[VideoPacket]:
        """Return the packets in the order in which their frames are shown."""
        return sorted(self.packets, key=pts_of)

    def picked(
        self,
        wanted_us: Sequence[int],
        *,
        until: VideoPacket | None,
        to_us: Callable[[int], int],
    ) -> set[int]:
        """Return the presentation times of the frames on screen at a wanted instant.

        Args:
            wanted_us: instants, ascending.
            until: the packet behind the group, None at the end of the file.
            to_us: from presentation times to instants.

        Raises:
            Doubt: the times are not what they should be between two clean key packets.
        """
        shown = [pts_of(packet) for packet in self.in_order()]
        is_last = until is None or until.is_discard
        end_us = _FOREVER_US if until is None or is_last else to_us(pts_of(until))
        times_us = [*map(to_us, shown), end_us]
        is_ascending = all(before < after for before, after in pairwise(times_us))
        if shown[0] != self.packets[0].pts or not is_ascending:
            raise Doubt
        found = [bisect_left(wanted_us, t_us) for t_us in times_us]
        spans = zip(shown, pairwise(found), strict=True)
        return {pts for pts, (begin, end) in spans if begin < end}

    def needed(self, picked: set[int]) -> list[VideoPacket]:
        """Return the packets without which these frames cannot be decoded, in their order."""
        each = list(zip(self.packets, self.kinds, strict=True))
        last = max(
            (index for index, (packet, _) in enumerate(each) if packet.pts in picked), default=-1
        )
        return [
            packet
            for packet, kind in each[: last + 1]
            if packet.pts in picked or not kind.is_disposable
        ]


def pts_of(packet: VideoPacket) -> int:
    """Return the presentation time of a packet that has one."""
    assert packet.pts is not None
    return packet.pts
