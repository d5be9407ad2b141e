"""What a video is, before its segments are planned: duration, size, codec, can it be decoded."""

from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from video2lora_core.container import open_video
from video2lora_core.pyav_decoder import ceil_us, decoded, find_start

MAX_DURATION_US = 24 * 3600 * 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoProbe:
    """What is known of a video once its first frame was decoded.

    Attributes:
        duration_us: from the first frame to the end of the last, in microseconds.
        origin_us: the container's time of the first frame, in microseconds; other times start here.
        width_px: width of the upright frame, in stored pixels.
        height_px: height of the upright frame, in stored pixels.
        rotation_deg: how far a stored frame is turned counter-clockwise to be upright.
        fps: mean frames per second, 0 where the container does not say.
        codec: FFmpeg's name of the decoder, such as h264.
        container: FFmpeg's name of the container, such as mov,mp4,m4a,3gp,3g2,mj2.
        pixel_format: FFmpeg's name, such as yuv420p.
    """

    duration_us: int
    origin_us: int
    width_px: int
    height_px: int
    rotation_deg: int
    fps: float
    codec: str
    container: str
    pixel_format: str


def probe(path: Path) -> VideoProbe:
    """Open a video and decode its first frame.

    The duration is the stream's, else the container's less its start.

    Raises:
        VideoError: it cannot be opened or decoded.
    """
    with open_video(path) as (container, stream):
        duration_us = _claimed_duration_us(container, stream)
        start = find_start(decoded(container, stream), path)
        frame = start.frame
        is_turned = frame.rotation // 90 % 2 == 1
        assert stream.time_base is not None
        return VideoProbe(
            duration_us=duration_us,
            origin_us=ceil_us(start.origin, stream.time_base),
            width_px=frame.height if is_turned else frame.width,
            height_px=frame.width if is_turned else frame.height,
            rotation_deg=frame.rotation,
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            codec=stream.codec_context.name,
            container=container.format.name,
            pixel_format=frame.format.name,
        )


def _claimed_duration_us(container: InputContainer, stream: VideoStream) -> int:
    if stream.duration is not None and stream.duration > 0:
        assert stream.time_base is not None
        return ceil_us(stream.duration, stream.time_base)
    if container.duration is not None and container.duration > 0:
        # Matroska's duration counts from 0, not from its first frame.
        return container.duration - max(0, container.start_time or 0)
    return 0
