"""Decoding: a video and its planned segments in, prepared frames or reasons out.

    probe(path)                 what the video is; VideoError for what cannot be used at all
    decode(path, segments, ..)  one sequential pass: each segment once, frames or a reject

Behind `decode` stand two decoders. `pyav` is the default; `decord` is there because it is widely
used, and refuses what it was measured to get wrong. Both only deliver frames with times: which of
them a segment is given, and whether it can be trusted, is decided once (picking.py). They are told
at which instants frames are looked at, and need decode no others.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from video2lora_core import decord_decoder, keyframes, pyav_decoder
from video2lora_core.container import MAX_FRAME_PIXELS
from video2lora_core.errors import UsageError
from video2lora_core.picking import pick
from video2lora_core.probe import VideoProbe, probe
from video2lora_core.segment_frames import (
    Damage,
    DecodedFrame,
    Prepare,
    SegmentFrames,
    SegmentReject,
)
from video2lora_core.segments import Segment, frame_times

__all__ = ["DECODERS", "SegmentFrames", "SegmentReject", "VideoProbe", "decode", "probe"]

Decoder = Callable[..., Generator[DecodedFrame | Damage]]

DECODERS: dict[str, Decoder] = {
    "pyav": pyav_decoder.decoded_frames,
    "decord": decord_decoder.decoded_frames,
}
# What is picked for an instant: the frame then on screen, or the nearest key frame.
SAMPLINGS: dict[str, dict[str, Decoder]] = {
    "centres": DECODERS,
    "keyframes": {"pyav": keyframes.key_frames},
}


def decode(
    path: Path,
    segments: Sequence[Segment],
    *,
    num_frames: int,
    prepare: Prepare,
    decoder: str = "pyav",
    max_pixels: int = MAX_FRAME_PIXELS,
    sampling: str = "centres",
) -> Iterator[SegmentFrames | SegmentReject]:
    """Yield every segment exactly once, in order.

    `segments` ascend and do not overlap; they may leave parts of the video out. `prepare` maps a
    uint8 RGB frame [height, width, channel] to uint8 [channel, size, size] and is called once per
    picked frame. Frames of more than `max_pixels` are refused. `sampling` is `centres` (the frame
    on screen at each instant) or `keyframes` (the key frame nearest to it, an approximation).
    Memory holds the frames of one segment and packets up to a limit, whatever the video's length.

    Raises:
        VideoError: the video cannot be decoded at all; always before the first segment.
        UsageError: the segments, the decoder's name or the sampling are wrong.
    """
    frames_of = _decoder(decoder, sampling)
    for before, after in pairwise(segments):
        if after.start_us < before.end_us:
            raise UsageError(f"decode: {after} does not follow {before}; sort the segments")
    if segments:
        wanted_us = [t_us for s in segments for t_us in frame_times(s, num_frames=num_frames)]
        found = frames_of(path, max_pixels=max_pixels, wanted_us=wanted_us)
        with closing(found) as items:
            yield from pick(items, segments, num_frames=num_frames, prepare=prepare)


def _decoder(decoder: str, sampling: str) -> Decoder:
    if sampling not in SAMPLINGS:
        raise UsageError(
            f"decode: sampling={sampling!r} is unknown (expected one of {tuple(SAMPLINGS)})"
        )
    if decoder not in DECODERS:
        raise UsageError(
            f"decode: decoder={decoder!r} is unknown (expected one of {tuple(DECODERS)})"
        )
    if decoder not in SAMPLINGS[sampling]:
        raise UsageError(
            f"decode: decoder={decoder!r} cannot do sampling={sampling!r}; use decoder: pyav"
        )
    return SAMPLINGS[sampling][decoder]
