"""What a shard needs of decoding: meet a file, then decode its segments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from video2lora_core.frames import SegmentFrames, SegmentReject, VideoProbe
from video2lora_core.segments import Segment


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFacts:
    """What a file turned out to be."""

    video_id: str | None
    """sha256 of its bytes; None where that was known before."""
    probe: VideoProbe


class VideoReader(Protocol):
    """Reads files, one at a time, for one thread.

    Whatever is wrong with a file is a VideoError; anything else that is raised stops the shard.
    """

    def meet(self, path: Path, *, is_hashed: bool) -> FileFacts:
        """Hash the file, unless that was done before, and probe it."""
        ...

    def decode(
        self, path: Path, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | SegmentReject]:
        """Yield every segment once, in order."""
        ...

    def close(self) -> None:
        """End what is running; the one call that may come from another thread."""
        ...
