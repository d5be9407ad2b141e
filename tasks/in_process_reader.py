"""Decoding in this very process: for debugging, and where no limits are wanted."""

import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from configs.schema import ModelConfig
from tasks.decoding_child import FileFacts
from tasks.models import pixel_spec
from video2lora_core.content import content_id
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, decode, probe
from video2lora_core.pixels import prepare
from video2lora_core.segments import Segment

logger = logging.getLogger(__name__)


class InProcessReader:
    """A VideoReader without a child: a decoder that hangs or crashes takes the process with it."""

    def __init__(self, *, model: ModelConfig, decoder: str) -> None:
        """Decode for this model."""
        self._num_frames = model.segments.num_frames
        self._prepare = functools.partial(prepare, spec=pixel_spec(model))
        self._decoder = decoder

    def meet(self, path: Path, *, is_hashed: bool) -> FileFacts:
        """Hash the file, unless that was done before, and probe it."""
        video_id = None if is_hashed else content_id(path)
        try:
            return FileFacts(video_id=video_id, probe=probe(path))
        except VideoError as error:
            error.video_id = video_id
            raise
        except Exception as error:  # an unforeseen fault of one file must not stop the shard
            raise _crash(path, error, video_id) from error

    def decode(
        self, path: Path, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | SegmentReject]:
        """Yield every segment once, in order."""
        try:
            yield from decode(
                path,
                segments,
                num_frames=self._num_frames,
                prepare=self._prepare,
                decoder=self._decoder,
            )
        except VideoError:
            raise
        except Exception as error:  # the same
            raise _crash(path, error, None) from error

    def close(self) -> None:
        """Do nothing: decoding in this process cannot be ended from outside."""


def _crash(path: Path, error: Exception, video_id: str | None) -> VideoError:
    logger.exception("%s: decoding failed", path.name)
    crash = VideoError(Reason.DECODE_CRASH, f"{type(error).__name__}: {error}")
    crash.video_id = video_id
    return crash
