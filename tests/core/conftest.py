"""The videos of the decoding tests: each is made once per session, when first asked for."""

import io
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorTrc
from av.video.stream import VideoStream
from PIL import Image

from tests.core.video_factory import AV1, FPS, H264, HEVC, NUM_FRAMES, VP9, picture, write_video

START_US = 5_000_000
EVERY_FRAME_US = [index * 1_000_000 // FPS for index in range(NUM_FRAMES)]


class VideoShelf:
    """Named video files; `shelf("base.mp4")` is the path of that file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, name: str) -> Path:
        path = self._directory / name
        if not path.exists():
            MAKERS[name](path, self)
        return path

    def content(self, name: str) -> bytes:
        return self(name).read_bytes()


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoShelf:
    return VideoShelf(tmp_path_factory.mktemp("videos"))


Maker = Callable[[Path, VideoShelf], object]


def written(**how: object) -> Maker:
    return lambda path, shelf: write_video(path, **how)  # type: ignore[arg-type]


def from_bytes(make: Callable[[VideoShelf], bytes]) -> Maker:
    return lambda path, shelf: path.write_bytes(make(shelf))


def half(name: str) -> Maker:
    return from_bytes(lambda shelf: shelf.content(name)[: len(shelf.content(name)) // 2])


def damaged(name: str, *, begin: float, end: float, zeros: bool = False) -> Maker:
    """Overwrite what lies between two shares of the file, or of the frames behind its header."""

    def make(shelf: VideoShelf) -> bytes:
        content = bytearray(shelf.content(name))
        header = content.index(b"mdat") + 4 if b"mdat" in content else 0
        first, last = (header + int(share * (len(content) - header)) for share in (begin, end))
        noise = bytes(last - first) if zeros else random.Random(1).randbytes(last - first)
        content[first:last] = noise
        return bytes(content)

    return from_bytes(make)


def patched(name: str, *, after: bytes, old: bytes, new: bytes) -> Maker:
    """Replace the first `old` behind `after`."""

    def make(shelf: VideoShelf) -> bytes:
        content = shelf.content(name)
        at = content.index(old, content.index(after))
        return content[:at] + new + content[at + len(new) :]

    return from_bytes(make)


def text(content: str) -> Maker:
    return from_bytes(lambda shelf: content.encode())


def audio(path: Path, shelf: VideoShelf) -> None:
    with av.open(str(path), "w") as target:
        stream = target.add_stream("aac", rate=16_000, layout="mono")
        silence = np.zeros((1, 16_000), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate = 16_000
        target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def audio_with_cover(path: Path, shelf: VideoShelf) -> None:
    image = io.BytesIO()
    Image.fromarray(picture(5)).save(image, format="JPEG")
    with av.open(str(path), "w", format="mp4") as target:
        sound = target.add_stream("aac", rate=16_000, layout="mono")
        cover = target.add_stream("mjpeg")
        assert isinstance(cover, VideoStream)
        cover.width, cover.height, cover.pix_fmt = 96, 96, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        silence = np.zeros((1, 16_000), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.rate = 16_000
        target.mux(sound.encode(frame))
        packet = av.Packet(image.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = cover, 0, 0, Fraction(1, 90_000)
        target.mux(packet)
        target.mux(sound.encode(None))


def begun_by_an_edit_list(path: Path, shelf: VideoShelf) -> None:
    """Copy base.mp4 from its second key frame (2 s) on, to be shown from frame 26 (3.25 s) on."""
    options = {"avoid_negative_ts": "disabled"}
    with (
        av.open(str(shelf("base.mp4"))) as source,
        av.open(str(path), "w", container_options=options) as target,
    ):
        stored = source.streams.video[0]
        copied = target.add_stream_from_template(stored)
        assert stored.time_base is not None
        for packet in source.demux(stored):
            if packet.dts is None or packet.pts is None or packet.pts * stored.time_base < 2:
                continue
            begin = int(Fraction(26, FPS) / stored.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, copied
            target.mux(packet)


def paused_with_sound(path: Path, shelf: VideoShelf) -> None:
    """Frames of the first and the last 2 s of 8 s, and sound throughout: a recording on hold."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as target:
        frames = target.add_stream("libx264", rate=FPS, options=dict(H264))
        assert isinstance(frames, VideoStream)
        frames.width, frames.height, frames.pix_fmt = 96, 96, "yuv420p"
        sound = target.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for second in range(8):
            noise = rng.integers(-9000, 9000, (1, 16_000), dtype=np.int16)
            frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="mono")
            frame.rate, frame.pts = 16_000, second * 16_000
            target.mux(sound.encode(frame))
            is_on_hold = second in range(2, 6)
            for number in () if is_on_hold else range(second * FPS, (second + 1) * FPS):
                image = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                image.pts = number
                target.mux(frames.encode(image))
        target.mux(frames.encode(None))


def still(kind: str) -> Maker:
    return lambda path, shelf: Image.fromarray(picture(5)).save(path, format=kind)


def _without_first_key(shelf: VideoShelf) -> bytes:
    """Drop a transport stream's first packets, tables excepted, up to frame 8 of its 16."""
    content = shelf.content("base.ts")
    return content[: 3 * 188] + content[len(content) // 10 // 188 * 188 :]


FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}

MAKERS: dict[str, Maker] = {
    # Intact: the same 80 frames of 1/8 s in many wrappings.
    "base.mp4": written(),
    "faststart.mp4": written(container_options={"movflags": "faststart"}),
    "fragmented.mp4": written(container_options=FRAGMENTED),
    "base.mkv": written(),
    "base.ts": written(),
    "bare.h264": written(container="h264"),
    "vp9.webm": written(codec="libvpx-vp9", options=VP9),
    "vp9.ivf": written(codec="libvpx-vp9", options=VP9),
    "noduration.webm": written(codec="libvpx-vp9", options=VP9, container_options={"live": "1"}),
    "hevc.mp4": written(codec="libx265", options=HEVC),
    "tenbit.mp4": written(codec="libx265", options=HEVC, pixel_format="yuv420p10le"),
    "mpeg4.avi": written(codec="mpeg4", options={"bf": "2", "g": "16"}),
    "opengop.mp4": written(
        options={"g": "40", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1"}
    ),
    "av1.mp4": written(codec="libsvtav1", options=AV1),
    "flv1.flv": written(codec="flv1", options={"g": "16"}),
    "prores.mov": written(codec="prores_ks", options={}, pixel_format="yuv422p10le"),
    "h264_422_10.mp4": written(pixel_format="yuv422p10le"),
    "wmv2.wmv": written(codec="wmv2", options={"g": "16"}),
    "start5.mp4": written(times_us=[START_US + t_us for t_us in EVERY_FRAME_US]),
    "start5.mkv": written(times_us=[START_US + t_us for t_us in EVERY_FRAME_US]),
    "start5.ts": written(times_us=[START_US + t_us for t_us in EVERY_FRAME_US]),
    # Intact, and each odd in its own way.
    "vfr.mp4": written(
        times_us=[t_us if t_us < START_US else 4 * t_us - 3 * START_US for t_us in EVERY_FRAME_US]
    ),
    "gap.mp4": written(
        times_us=[t_us if t_us < START_US else t_us + 35_000_000 for t_us in EVERY_FRAME_US]
    ),
    "mpeg2.mpg": written(
        codec="mpeg2video", options={"bf": "2", "g": "15"}, fps=25, numbers=range(100)
    ),
    "paused.mkv": paused_with_sound,
    "odd.webm": written(codec="libvpx-vp9", options=VP9, size_px=(97, 95)),
    "odd444.mp4": written(pixel_format="yuv444p", size_px=(97, 95)),
    "fps120.mp4": written(fps=120, numbers=range(240)),
    "editlist.mp4": begun_by_an_edit_list,
    "pq.mp4": written(
        codec="libx265", options=HEVC, pixel_format="yuv420p10le", transfer=ColorTrc.SMPTE2084
    ),
    "hlg.mp4": written(
        codec="libx265", options=HEVC, pixel_format="yuv420p10le", transfer=ColorTrc.ARIB_STD_B67
    ),
    "rotated90.mp4": written(rotation_deg=90, size_px=(128, 96)),
    "rotated270.mp4": written(rotation_deg=-90, size_px=(128, 96)),
    "unrotated.mp4": written(size_px=(128, 96)),
    "wide_pixels.mp4": written(pixel_aspect=Fraction(2, 1)),
    "one.mp4": written(numbers=[3]),
    "slow.mkv": written(fps=Fraction(1, 10), numbers=range(6)),
    "small.h264": written(container="h264", numbers=range(40)),
    "wide.h264": written(container="h264", numbers=range(40, 80), size_px=(192, 96)),
    "resized.h264": from_bytes(
        lambda shelf: shelf.content("small.h264") + shelf.content("wide.h264")
    ),
    "small.ts": written(numbers=range(40)),
    "wide.ts": written(numbers=range(40, 80), size_px=(192, 96)),
    "reschange.ts": from_bytes(lambda shelf: shelf.content("small.ts") + shelf.content("wide.ts")),
    "joined.ts": from_bytes(_without_first_key),
    "restarted.ts": from_bytes(lambda shelf: shelf.content("base.ts") * 2),
    # An impossible duration in the header: 1e12 ms, and none.
    "long_claim.mkv": patched(
        "base.mkv",
        after=b"\x44\x89\x88",
        old=b"\x40\xc3\x88",
        new=b"\x42\x6d\x1a\x94\xa2\x00\x00\x00",
    ),
    # Cut off.
    "half.mp4": half("base.mp4"),
    "half_faststart.mp4": half("faststart.mp4"),
    "half.mkv": half("base.mkv"),
    "half_fragmented.mp4": half("fragmented.mp4"),
    "no_fragment.mp4": from_bytes(
        lambda shelf: shelf.content("fragmented.mp4").partition(b"moof")[0][:-4]
    ),
    # Overwritten.
    "noise.mp4": damaged("faststart.mp4", begin=0.45, end=0.55),
    "noise.mkv": damaged("base.mkv", begin=0.45, end=0.55),
    "noise.ts": damaged("base.ts", begin=0.45, end=0.55),
    "zeros_inside.mp4": damaged("faststart.mp4", begin=0.45, end=0.55, zeros=True),
    "zeros_tail.mp4": damaged("faststart.mp4", begin=0.70, end=1.0, zeros=True),
    "zeros_early.mp4": damaged("faststart.mp4", begin=0.40, end=0.85, zeros=True),
    "noise.webm": damaged("vp9.webm", begin=0.30, end=0.40),
    "noise_head.mkv": damaged("base.mkv", begin=0.15, end=0.40),
    "bent.ivf": from_bytes(lambda shelf: _without(shelf.content("vp9.ivf"), 0.5, 0.6)),
    "broken_title.mp4": patched("base.mp4", after=b"hdlr", old=b"Video", new=b"Vi\xd5\xc4o"),
    "noise_head.mp4": damaged("faststart.mp4", begin=0.0, end=0.25),
    "zeros_all.mp4": damaged("faststart.mp4", begin=0.0, end=1.0, zeros=True),
    "noise_all.mp4": damaged("faststart.mp4", begin=0.0, end=1.0),
    "noise.hevc.mp4": damaged("hevc.mp4", begin=0.30, end=0.60),
    "sprinkled.mp4": from_bytes(lambda shelf: _sprinkled(shelf.content("faststart.mp4"))),
    "corrupt_moov.mp4": from_bytes(
        lambda shelf: _noise_after(shelf.content("faststart.mp4"), b"stts")
    ),
    "unknown_codec.mp4": patched("base.mp4", after=b"stsd", old=b"avc1", new=b"zzz1"),
    # Not videos.
    "audio.mp4": audio,
    "cover.m4a": audio_with_cover,
    "jpeg.mp4": still("JPEG"),
    "png.mp4": still("PNG"),
    "gif.mp4": still("GIF"),
    "empty.mp4": text(""),
    "text.mp4": text("These are words.\n"),
    "random.mp4": from_bytes(lambda shelf: random.Random(1).randbytes(200_000)),
    # Play lists, which would make FFmpeg read another file.
    "ffconcat.mp4": text("ffconcat version 1.0\nfile base.mp4\n"),
    "m3u8.mp4": text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nbase.ts\n#EXT-X-ENDLIST\n"),
    "sdp.mp4": text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ),
}


def _without(content: bytes, begin: float, end: float) -> bytes:
    return content[: int(begin * len(content))] + content[int(end * len(content)) :]


def _sprinkled(content: bytes) -> bytes:
    """Change one byte in a thousand, all over the frames."""
    changed, rng = bytearray(content), random.Random(1)
    for _ in range(len(content) // 1000 + 10):
        changed[rng.randrange(len(content) // 10, len(content) * 95 // 100)] = rng.randrange(256)
    return bytes(changed)


def _noise_after(content: bytes, box: bytes) -> bytes:
    at = content.index(box) + len(box)
    return content[:at] + random.Random(1).randbytes(392) + content[at + 392 :]
