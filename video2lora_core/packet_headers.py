"""What a compressed packet says of itself: can decoding begin with it, does another frame need it.

Read from the headers of the codec, because a container's key flag is not enough: frames before
a recovery point of H.264 may be referred to by frames after it, those before an IDR may not. Only
what is certain counts; a packet that reads otherwise is unclear (None), and then nothing may be
left out. Sources: ITU-T H.264 (7.3.1, 7.4.1.2.4) and ISO/IEC 14496-15 for its lengths, the
bitstream specifications of VP9 (6.2) and AV1 (5.3, 5.9.2).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from av.container import InputContainer
from av.video.stream import VideoStream

from video2lora_core.packets import VideoPacket

CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})

_H264_SLICES = range(1, 6)
_H264_IDR = 5
_H264_PARAMETERS = frozenset({7, 8, 13})
# A disposable frame has nothing but one plain slice after the other, and what is said about it.
_H264_DISPOSABLE = frozenset({1, 6, 9, 12})
# Layers and views of the extensions, and slices in partitions: here nothing is left out.
_H264_UNCLEAR = frozenset({2, 3, 4, 14, 15, 19, 20, 21})
_AV1_SEQUENCE, _AV1_FRAME_HEADER, _AV1_FRAME = 1, 3, 6
# Up to here a VP9 key frame says its profile, colours, width and height, and nothing else.
_VP9_HEADER_BYTES = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class PacketKind:
    """What a packet's headers say.

    Attributes:
        is_clean_key: no frame from here on refers to one before it.
        is_disposable: no other frame refers to it.
        headers: what the frames from here on are to be decoded with; empty where nothing is said.
    """

    is_clean_key: bool = False
    is_disposable: bool = False
    headers: bytes = b""


Kinds = Callable[[VideoPacket], PacketKind | None]


def packet_kinds(container: InputContainer, stream: VideoStream) -> Kinds | None:
    """Return what reads the stream's packets; None where frames must not be left out."""
    if container.format.name not in CONTAINERS:
        return None
    codec = stream.codec_context.name
    if codec == "h264":
        avcc = stream.codec_context.extradata or b""
        if len(avcc) < 7 or avcc[0] != 1:  # no avcC: start codes in place of lengths
            return None
        return lambda packet: h264_kind(bytes(packet), length_bytes=(avcc[4] & 3) + 1)
    if codec == "vp9":
        return lambda packet: vp9_kind(bytes(packet), is_key=packet.is_keyframe)
    if codec == "libdav1d":
        return lambda packet: av1_kind(bytes(packet), is_key=packet.is_keyframe)
    return None


def h264_kind(content: bytes, *, length_bytes: int) -> PacketKind | None:
    """Read the headers of the units that make a frame, each behind its length."""
    slices: set[int] = set()
    others: set[int] = set()
    is_referred_to = False
    headers = b""
    for unit in _h264_units(content, length_bytes=length_bytes):
        if not unit or unit[0] & 0x80:
            return None
        kind = unit[0] & 0x1F
        if kind in _H264_UNCLEAR:
            return None
        (slices if kind in _H264_SLICES else others).add(kind)
        if kind in _H264_SLICES:
            is_referred_to = is_referred_to or bool(unit[0] & 0x60)
        if kind in _H264_PARAMETERS:
            headers += unit
    if not slices or (_H264_IDR in slices and slices != {_H264_IDR}):
        return None
    return PacketKind(
        is_clean_key=_H264_IDR in slices,
        is_disposable=not is_referred_to and (slices | others) <= _H264_DISPOSABLE,
        headers=headers,
    )


def _h264_units(content: bytes, *, length_bytes: int) -> Iterator[bytes]:
    """Yield each unit; an empty one where the lengths do not fill the packet exactly."""
    at = 0
    while at < len(content):
        begin = at + length_bytes
        at = begin + int.from_bytes(content[at:begin])
        if at > len(content):
            yield b""
            return
        yield content[begin:at]


def vp9_kind(content: bytes, *, is_key: bool) -> PacketKind | None:
    """Read the first frame header of a packet, which may be a frame or a superframe."""
    if len(content) < 1 or content[0] >> 6 != 0b10:
        return None
    bits, width = int.from_bytes(content[:2].ljust(2, b"\0")), 16
    at = 5 if content[0] >> 4 & 0b11 == 0b11 else 4  # profile 3 has a reserved bit
    is_repeat, is_inter, is_shown = (bits >> (width - 1 - at - n) & 1 for n in range(3))
    is_superframe = content[-1] >> 5 == 0b110
    if not (is_repeat or is_shown or is_superframe):
        return None  # it would give no frame
    if not is_key:
        return PacketKind()
    if is_repeat or is_inter or len(content) < _VP9_HEADER_BYTES:
        return None
    return PacketKind(is_clean_key=True, headers=content[:_VP9_HEADER_BYTES])


def av1_kind(content: bytes, *, is_key: bool) -> PacketKind | None:
    """Read the units of a key packet; the others are not looked into."""
    if not is_key:
        return PacketKind()
    headers = b""
    for kind, unit in _av1_units(content):
        if kind == _AV1_SEQUENCE:
            headers += unit
        elif kind in (_AV1_FRAME_HEADER, _AV1_FRAME):
            # Not shown before, of type KEY_FRAME, shown.
            is_clean = bool(headers) and bool(unit) and unit[0] >> 4 == 0b0001
            return PacketKind(is_clean_key=True, headers=headers) if is_clean else None
    return None


def _av1_units(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the type and content of each unit up to the first that has no length."""
    at = 0
    while at < len(content) and content[at] & 0x82 == 0x02:
        kind = content[at] >> 3 & 0xF
        at += 2 if content[at] & 0x04 else 1
        length = shift = 0
        while at < len(content):
            byte = content[at]
            length, shift, at = length | (byte & 0x7F) << shift, shift + 7, at + 1
            if not byte & 0x80:
                break
        yield kind, content[at : at + length]
        at += length
