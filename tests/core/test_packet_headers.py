"""What packets say of themselves: where decoding can begin, and what no other frame needs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.conftest import VideoShelf
from tests.core.video_factory import H264, write_video
from video2lora_core.container import open_video
from video2lora_core.packet_headers import (
    PacketKind,
    av1_kind,
    h264_kind,
    packet_kinds,
    vp9_kind,
)
from video2lora_core.packets import Failure, packets


def kinds_of(path: Path) -> list[PacketKind | None] | None:
    with open_video(path) as (container, stream):
        read = packet_kinds(container, stream)
        if read is None:
            return None
        found = packets(container, stream)
        return [read(item) for item in found if not isinstance(item, Failure) and item.size]


def clean_keys(path: Path) -> list[int]:
    found = kinds_of(path) or []
    return [index for index, kind in enumerate(found) if kind and kind.is_clean_key]


@pytest.mark.parametrize("name", ["base.mp4", "base.mkv", "fragmented.mp4", "vp9.webm", "av1.mp4"])
def test_decoding_can_begin_at_every_key_frame_of_closed_groups(videos: VideoShelf, name: str):
    assert clean_keys(videos(name)) == [0, 16, 32, 48, 64]


def test_decoding_cannot_begin_at_a_recovery_point(videos: VideoShelf):
    path = videos("opengop.mp4")
    with open_video(path) as (container, stream):
        found = packets(container, stream)
        num_marked = sum(not isinstance(item, Failure) and item.is_keyframe for item in found)
    assert num_marked > 1
    assert clean_keys(path) == [0]


def test_b_frames_that_no_other_refers_to_are_disposable(tmp_path: Path):
    options = {**H264, "bf": "2", "b-pyramid": "none", "b_strategy": "0"}
    kinds = kinds_of(write_video(tmp_path / "b.mp4", options=options)) or []
    assert sum(kind is not None and kind.is_disposable for kind in kinds) >= len(kinds) // 2
    kinds = kinds_of(write_video(tmp_path / "p.mp4", options={**options, "bf": "0"})) or []
    assert not any(kind is None or kind.is_disposable for kind in kinds)


@pytest.mark.parametrize("name", ["base.ts", "bare.h264", "vp9.ivf", "hevc.mp4", "prores.mov"])
def test_what_was_not_proven_says_nothing(videos: VideoShelf, name: str):
    assert kinds_of(videos(name)) is None


def unit(kind: int, *, importance: int = 3, content: bytes = b"\x80\x01") -> bytes:
    body = bytes([importance << 5 | kind]) + content
    return len(body).to_bytes(4) + body


def h264(*units: bytes) -> PacketKind | None:
    return h264_kind(b"".join(units), length_bytes=4)


def test_parameters_in_a_packet_are_its_headers_and_make_it_needed():
    kind = h264(unit(7, content=b"size"), unit(8, content=b"tools"), unit(5))
    assert kind == PacketKind(is_clean_key=True, headers=b"\x67size\x68tools")
    assert h264(unit(1, importance=0)) == PacketKind(is_disposable=True)
    with_parameters = h264(unit(8, content=b"tools"), unit(1, importance=0))
    assert with_parameters == PacketKind(headers=b"\x68tools")


@pytest.mark.parametrize(
    "units",
    [
        [],
        [unit(6)],
        [unit(5), unit(1)],
        [unit(14), unit(1)],
        [unit(2), unit(3)],
        [unit(1)[:-1]],
        [unit(1), b"\0\0"],
        [unit(1, importance=7)],
    ],
    ids=[
        "empty",
        "no picture",
        "mixed",
        "layers",
        "partitions",
        "cut",
        "left over",
        "forbidden bit",
    ],
)
def test_an_h264_packet_that_is_not_plain_is_unclear(units: list[bytes]):
    assert h264(*units) is None


def test_one_slice_that_others_refer_to_makes_the_frame_needed():
    assert h264(unit(1, importance=0), unit(1, importance=1)) == PacketKind()


def test_a_vp9_packet_that_shows_nothing_is_unclear():
    shown, hidden, repeated = 0b1000_0110, 0b1000_0100, 0b1000_1000
    assert vp9_kind(bytes([shown, 0, 0]), is_key=False) == PacketKind()
    assert vp9_kind(bytes([repeated]), is_key=False) == PacketKind()
    assert vp9_kind(bytes([hidden, 0, 0]), is_key=False) is None
    assert vp9_kind(bytes([shown, *range(20)]), is_key=True) is None  # marked, and is no key


def test_an_av1_key_packet_must_hold_a_sequence_and_a_shown_key_frame():
    sequence, key = bytes([0x0A, 2, 7, 7]), bytes([0x32, 2, 0x10, 0])
    assert av1_kind(sequence + key, is_key=True) == PacketKind(is_clean_key=True, headers=b"\7\7")
    assert av1_kind(key, is_key=True) is None
    assert av1_kind(sequence + bytes([0x32, 2, 0x00, 0]), is_key=True) is None  # hidden
    assert av1_kind(sequence + bytes([0x32, 2, 0x30, 0]), is_key=True) is None  # refers to others


@given(content=st.binary(max_size=200), is_key=st.booleans())
def test_noise_is_read_without_harm(content: bytes, is_key: bool):
    for length_bytes in (1, 2, 4):
        h264_kind(content, length_bytes=length_bytes)
    vp9_kind(content, is_key=is_key)
    av1_kind(content, is_key=is_key)
