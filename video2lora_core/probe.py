"""What a video is, before its segments are planned: duration, size, codec, can it be decoded."""

from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.video.stream import VideoStream

from video2lora_core.container import MAX_FRAME_PIXELS, open_video
from video2lora_core.errors import Reason, VideoError
from video2lora_core.full_decoding import (
    JOINABLE_CONTAINERS,
    Start,
    ceil_us,
    decoded,
    find_start,
    usual_duration,
)
from video2lora_core.packets import Failure, packets

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


def probe(
    path: Path,
    *,
    max_duration_us: int = MAX_DURATION_US,
    max_pixels: int = MAX_FRAME_PIXELS,
) -> VideoProbe:
    """Open a video and decode its first frame.

    The duration is the stream's (less what cannot be decoded before the first key frame of a
    recording), else the container's less its start; where neither is given, or it is above
    `max_duration_us`, the packets are read once without decoding.

    Raises:
        VideoError: it cannot be opened (see `open_video`) or decoded (NO_FRAMES,
            UNSUPPORTED_CODEC), is a STILL_IMAGE, or lasts too long (DURATION_BOGUS) or for a time
            that cannot be found out (DURATION_UNKNOWN).
    """
    with open_video(path, max_pixels=max_pixels) as (container, stream):
        assert stream.time_base is not None
        start = find_start(decoded(container, stream), path)
        claimed_us = _claimed_duration_us(container, stream, origin=start.origin)
        is_plausible = 0 < claimed_us <= max_duration_us
        is_turned = start.frame.rotation // 90 % 2 == 1
        return VideoProbe(
            duration_us=claimed_us if is_plausible else _scan(path, start, limit=max_duration_us),
            origin_us=ceil_us(start.origin, stream.time_base),
            width_px=start.frame.height if is_turned else start.frame.width,
            height_px=start.frame.width if is_turned else start.frame.height,
            rotation_deg=start.frame.rotation,
            fps=_fps(stream, start),
            codec=stream.codec_context.name,
            container=container.format.name,
            pixel_format=start.frame.format.name,
        )


def _fps(stream: VideoStream, start: Start) -> float:
    # Without timestamps (a bare H.264 stream) the average is a made-up 25.
    is_timed = start.frame.pts is not None
    return float((is_timed and stream.average_rate) or stream.guessed_rate or 0)


def _claimed_duration_us(container: InputContainer, stream: VideoStream, *, origin: int) -> int:
    assert stream.time_base is not None
    if stream.duration is not None and stream.duration > 0:
        begin = stream.start_time if container.format.name in JOINABLE_CONTAINERS else None
        undecodable = 0 if begin is None else max(0, origin - begin)
        return ceil_us(stream.duration - undecodable, stream.time_base)
    if container.duration is not None:
        # Matroska's duration counts from 0, not from its first frame.
        return container.duration - max(0, container.start_time or 0)
    return 0


def _scan(path: Path, start: Start, *, limit: int) -> int:
    """Find the duration from the packets, as far as the last of them."""
    num_packets, end, untimed = 0, start.origin, 0
    with open_video(path) as (container, stream):
        assert stream.time_base is not None
        for packet in packets(container, stream):
            if isinstance(packet, Failure) or packet.size == 0:
                continue
            num_packets += 1
            duration = packet.duration or usual_duration(stream)
            untimed += duration
            if packet.pts is not None:
                end = max(end, packet.pts + duration)
        duration_us = ceil_us(max(end - start.origin, 0) or untimed, stream.time_base)
    if num_packets == 1:
        raise VideoError(Reason.STILL_IMAGE, f"{path.name}: one frame and no duration")
    if duration_us <= 0:
        raise VideoError(Reason.DURATION_UNKNOWN, f"{path.name}: neither header nor packets tell")
    if duration_us > limit:
        detail = f"{path.name}: {duration_us / 1e6:.0f} s (expected at most {limit / 1e6:.0f} s)"
        raise VideoError(Reason.DURATION_BOGUS, detail)
    return duration_us
