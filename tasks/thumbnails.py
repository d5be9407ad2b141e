"""Small pictures of segments, decoded from where their video still is.

Only a file that is still the one that was internalized is shown (same size, same version), and it
was decoded within limits before. A report must not take as long as the run: decoding ends at a
deadline, and what has no picture says why.
"""

import io
import time
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from storage.errors import StorageError, reason_of
from storage.manifest import Source
from storage.remote import is_remote
from tasks.source_file import SourceFile
from video2lora_core.errors import Video2LoraError, VideoError
from video2lora_core.frames import SegmentReject, decode
from video2lora_core.segments import Segment

FRAMES: Final = 3
FRAME_PX: Final = 128
_JPEG_QUALITY: Final = 72
# A remote video is copied whole to be decoded; a report is not worth more than this.
_MAX_COPY_BYTES: Final = 512 * 1024**2

Span = tuple[int, int]


def segment_pictures(
    source: Source, spans: Sequence[Span], *, deadline_s: float
) -> dict[Span, bytes | str]:
    """Return for each span a JPEG of its frames side by side, or why there is none.

    Args:
        source: Where the video was when it was internalized.
        spans: (start_us, end_us) each; they may overlap.
        deadline_s: On the clock of `time.monotonic`.
    """
    found: dict[Span, bytes | str] = {}
    for disjoint in _passes(spans):
        try:
            found |= _decoded(source, disjoint, deadline_s)
        except VideoError as error:
            found.update(dict.fromkeys(disjoint, f"no picture: {error.detail}"))
        except (StorageError, Video2LoraError) as error:
            found.update(dict.fromkeys(disjoint, f"no picture: {reason_of(error)}"))
    return found


def _passes(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Cut the spans into lists that ascend without overlap, which is what one pass decodes."""
    left = sorted(set(spans))
    while left:
        taken: list[Span] = []
        for span in left:
            if not taken or taken[-1][1] <= span[0]:
                taken.append(span)
        yield taken
        left = [span for span in left if span not in taken]


def _decoded(
    source: Source, spans: Sequence[Span], deadline_s: float
) -> Iterator[tuple[Span, bytes | str]]:
    late = "no picture: the time for pictures is used up; ask for fewer answers"
    if is_remote(source.uri) and (source.size_bytes or 0) > _MAX_COPY_BYTES:
        yield from ((span, "no picture: too large to copy for a report") for span in spans)
        return
    if time.monotonic() > deadline_s:
        yield from ((span, late) for span in spans)
        return
    with SourceFile(source) as file:
        segments = [Segment(start_us=start_us, end_us=end_us) for start_us, end_us in spans]
        made = decode(file.path(), segments, num_frames=FRAMES, prepare=_small)
        for index, (span, outcome) in enumerate(zip(spans, made, strict=True)):
            if isinstance(outcome, SegmentReject):
                yield span, f"no picture: {outcome.reason}"
            else:
                yield span, _jpeg(outcome.pixels)
            if time.monotonic() > deadline_s:
                yield from ((rest, late) for rest in spans[index + 1 :])
                return


def _small(frame: np.ndarray) -> np.ndarray:
    """Make an RGB frame fit a small square, as [channel, height, width]."""
    image = ImageOps.pad(Image.fromarray(frame), (FRAME_PX, FRAME_PX), color=(24, 24, 24))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _jpeg(pixels: np.ndarray) -> bytes:
    strip = np.concatenate([frame.transpose(1, 2, 0) for frame in pixels], axis=1)
    out = io.BytesIO()
    Image.fromarray(strip).save(out, format="JPEG", quality=_JPEG_QUALITY)
    return out.getvalue()
