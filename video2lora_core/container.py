"""Opening a file that may be anything: only video containers, only this file, faults told apart.

FFmpeg would also open play lists (concat, hls, dash, image2, sdp), which read other files than the
one they were given, whatever that is called. So the formats are listed and `file` is the only
protocol.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.stream import Disposition
from av.video.stream import VideoStream

from video2lora_core.content import file_size
from video2lora_core.errors import Reason, VideoError
from video2lora_core.memory_limit import is_exhausted

FORMATS = (
    "mov,matroska,mpegts,mpeg,mpegvideo,avi,asf,flv,ogg,mxf,gif,apng,ivf,obu,nut,h264,hevc,m4v"
    # Still images are opened only to be named as such (STILL_IMAGE); each reads the one file.
    ",jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
# 139264 macroblocks, the largest frame of H.264 level 6.2: one decoded RGB frame is then 107 MB.
MAX_FRAME_PIXELS = 139264 * 256


@contextmanager
def open_video(
    path: Path, *, max_pixels: int = MAX_FRAME_PIXELS
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file for one pass on one thread; yield the container and its video stream.

    `max_pixels` is the limit for width times height, of the stream and of every frame in it.

    Raises:
        VideoError: SRC_EMPTY, SRC_NOT_FOUND, SRC_IO, NOT_MEDIA, CORRUPT_CONTAINER,
            NO_VIDEO_STREAM, UNSUPPORTED_CODEC or TOO_LARGE.
    """
    if file_size(path) == 0:
        raise VideoError(Reason.SRC_EMPTY, f"{path.name}: the file has 0 bytes")
    container = _open(path)
    try:
        stream = _video_stream(container, path, max_pixels=max_pixels)
        # Two threads cost 22% more processor time: the parallelism is over videos.
        stream.codec_context.thread_count = 1
        # A stream may also grow later: the decoder itself refuses such frames.
        stream.codec_context.options = {"max_pixels": str(max(max_pixels, _padded_pixels(stream)))}
        yield container, stream
    finally:
        container.close()


def _padded_pixels(stream: VideoStream) -> int:
    """Return the size of the stream's frames as the decoder allocates and counts them."""
    return (stream.width + -stream.width % 64) * (stream.height + -stream.height % 64)


def _open(path: Path) -> InputContainer:
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        # The prefix keeps a name such as "concat:a|b.mp4" from being read as a protocol. A broken
        # title is no reason to refuse the frames: PyAV would raise UnicodeDecodeError.
        return av.open(f"file:{path}", mode="r", options=options, metadata_errors="replace")
    except InvalidDataError as error:
        raise VideoError(Reason.NOT_MEDIA, f"{path.name}: no video container found") from error
    except ArgumentError as error:
        # Also FFmpeg's answer for a format outside the list.
        detail = f"{path.name}: not a video container that is allowed here"
        raise VideoError(Reason.NOT_MEDIA, detail) from error
    except (FFmpegError, MemoryError) as error:
        # A corrupt size field asks for gigabytes: MemoryError alone says nothing of real memory.
        if isinstance(error, MemoryError) and is_exhausted():
            raise
        detail = f"{path.name}: {type(error).__name__} while opening"
        raise VideoError(Reason.CORRUPT_CONTAINER, detail) from error


def _video_stream(container: InputContainer, path: Path, *, max_pixels: int) -> VideoStream:
    streams = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    if not streams:
        detail = f"{path.name}: no video stream (cover art is none)"
        raise VideoError(Reason.NO_VIDEO_STREAM, detail)
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(Reason.UNSUPPORTED_CODEC, f"{path.name}: no decoder for the video stream")
    if stream.width * stream.height > max_pixels:
        detail = (
            f"{path.name}: frames of {stream.width}x{stream.height} px "
            f"(expected at most {max_pixels} pixels)"
        )
        raise VideoError(Reason.TOO_LARGE, detail)
    return stream
