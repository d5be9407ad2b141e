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

from video2lora_core.errors import Reason, VideoError

FORMATS = (
    "mov,matroska,mpegts,mpeg,mpegvideo,avi,asf,flv,ogg,mxf,gif,apng,ivf,obu,nut,h264,hevc,m4v"
    # Still images are opened only to be named as such (STILL_IMAGE); each reads the one file.
    ",jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
# 139264 macroblocks, the largest frame of H.264 level 6.2: one decoded RGB frame is then 107 MB.
MAX_FRAME_PIXELS = 139264 * 256


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file for one pass on one thread; yield the container and its video stream.

    Raises:
        VideoError: SRC_EMPTY, SRC_NOT_FOUND, SRC_IO, NOT_MEDIA, CORRUPT_CONTAINER,
            NO_VIDEO_STREAM, UNSUPPORTED_CODEC or TOO_LARGE.
    """
    _check_file(path)
    container = _open(path)
    try:
        stream = _video_stream(container, path)
        # Two threads cost 22% more processor time: the parallelism is over videos.
        stream.codec_context.thread_count = 1
        # A stream may also grow later: the decoder itself refuses such frames.
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        yield container, stream
    finally:
        container.close()


def _check_file(path: Path) -> None:
    try:
        # Looked at before it is opened: opening a pipe would wait for a writer.
        is_file, size_bytes = path.is_file(), path.stat().st_size
        if is_file:
            path.open("rb").close()
    except FileNotFoundError as error:
        raise VideoError(Reason.SRC_NOT_FOUND, f"{path.name}: there is no such file") from error
    except OSError as error:
        raise VideoError(Reason.SRC_IO, f"{path.name}: {error.strerror}") from error
    if not is_file:
        raise VideoError(Reason.SRC_IO, f"{path.name}: not a regular file")
    if size_bytes == 0:
        raise VideoError(Reason.SRC_EMPTY, f"{path.name}: the file has 0 bytes")


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
        # A corrupt size field asks for terabytes: MemoryError says nothing of the machine's memory.
        detail = f"{path.name}: {type(error).__name__} while opening"
        raise VideoError(Reason.CORRUPT_CONTAINER, detail) from error


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    streams = [s for s in container.streams.video if Disposition.attached_pic not in s.disposition]
    if not streams:
        detail = f"{path.name}: no video stream (cover art is none)"
        raise VideoError(Reason.NO_VIDEO_STREAM, detail)
    stream = streams[0]
    if stream.codec_context is None:
        raise VideoError(Reason.UNSUPPORTED_CODEC, f"{path.name}: no decoder for the video stream")
    if stream.width * stream.height > MAX_FRAME_PIXELS:
        detail = (
            f"{path.name}: frames of {stream.width}x{stream.height} px "
            f"(expected at most {MAX_FRAME_PIXELS} pixels)"
        )
        raise VideoError(Reason.TOO_LARGE, detail)
    return stream
