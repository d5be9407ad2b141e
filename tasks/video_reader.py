"""What a shard needs of decoding: meet a file, decode its segments; and the plain way to do both.

`InProcessReader` decodes where it is called. It is what a decoding child runs inside, what tests
compare with, and what `decode.workers: 0` gives. Only a child can be stopped
(tasks/decoding_child.py).
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from configs.schema import DecodeConfig, ModelConfig
from video2lora_core.content import content_id, file_size
from video2lora_core.errors import Reason, UsageError, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, VideoProbe, decode, probe
from video2lora_core.memory_limit import is_exhausted
from video2lora_core.pixels import PixelSpec, prepare
from video2lora_core.segments import Segment

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What a file is.

    Attributes:
        video_id: the hash of its bytes; None where the caller knew it.
        probe: what was found on opening it.
    """

    video_id: str | None
    probe: VideoProbe


class VideoReader(Protocol):
    """Reads videos, one at a time, for one thread."""

    def meet(self, path: Path, *, is_hashed: bool) -> FileFacts:
        """Hash a file, unless that was done already, and probe it.

        Raises:
            VideoError: it cannot be used; carries `video_id` where the bytes could be read.
        """

    def decode(
        self, path: Path, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | SegmentReject]:
        """Yield every segment once, in order.

        Raises:
            VideoError: the rest of the video cannot be decoded. What was yielded before stays good.
        """

    def close(self) -> None:
        """Give back what the reader holds; again does nothing."""


class InProcessReader:
    """Reads videos in this process."""

    def __init__(
        self,
        *,
        model: ModelConfig,
        decoder: str,
        limits: DecodeConfig,
        sampling: str = "centres",
    ) -> None:
        self._num_frames = model.segments.num_frames
        self._prepare = functools.partial(prepare, spec=PixelSpec(**model.pixels.model_dump()))
        self._decoder = decoder
        self._limits = limits
        self._sampling = sampling

    def meet(self, path: Path, *, is_hashed: bool) -> FileFacts:
        """Hash a file, unless that was done already, and probe it."""
        video_id = None if is_hashed else self.identify(path)
        try:
            return FileFacts(video_id=video_id, probe=self.probe(path))
        except VideoError as error:
            error.video_id = video_id
            raise

    def identify(self, path: Path) -> str:
        """Return the `video_id` of a file that is not too large."""
        with _faults(path):
            file_size(path, max_bytes=self._limits.max_file_bytes)
            return content_id(path)

    def probe(self, path: Path) -> VideoProbe:
        """Open a file that is not too large and decode its first frame."""
        with _faults(path):
            file_size(path, max_bytes=self._limits.max_file_bytes)
            return probe(
                path,
                max_duration_us=round(self._limits.max_duration_s * 1_000_000),
                max_pixels=self._limits.max_pixels,
            )

    def decode(
        self, path: Path, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | SegmentReject]:
        """Yield every segment once, in order."""
        with _faults(path):
            yield from decode(
                path,
                segments,
                num_frames=self._num_frames,
                prepare=self._prepare,
                decoder=self._decoder,
                max_pixels=self._limits.max_pixels,
                sampling=self._sampling,
            )

    def close(self) -> None:
        """Do nothing: nothing is held between two calls."""


@contextmanager
def _faults(path: Path) -> Iterator[None]:
    """Turn whatever nobody foresaw into a reason: one file must not stop a shard."""
    try:
        yield
    except (VideoError, UsageError):
        raise
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or is_exhausted():
            detail = f"{path.name}: no memory is left under the limit ({fault})"
            raise VideoError(Reason.DECODE_OOM, detail) from error
        logger.exception("%s: decoding failed", path.name)
        raise VideoError(Reason.DECODE_CRASH, f"{path.name}: {fault}") from error
