"""Meet a source: from a file to what it is (video_id), how long it is, and its segments.

Only what the catalog does not know is read. Whatever is wrong with a file becomes a reason.
"""

from dataclasses import dataclass

from configs.schema import SegmentConfig
from storage.lookups import VideoFacts
from storage.manifest import Source
from tasks.kept_tokens import KeptTokens
from tasks.known import Known, plan_segments
from tasks.source_file import SourceFile
from tasks.stopwatch import Stopwatch
from tasks.video_reader import VideoReader
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import VideoProbe
from video2lora_core.segments import Segment

# Trying again later may help: the file comes back, the network heals, the machine has more memory.
_TRANSIENT = frozenset(
    {
        Reason.SRC_NOT_FOUND,
        Reason.SRC_IO,
        Reason.DEVICE_OOM,
        Reason.DECODE_TIMEOUT,
        Reason.DECODE_CRASH,
        Reason.DECODE_OOM,
        Reason.ADAPTER_MISSING,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """Why a video or a segment was not processed."""

    reason: Reason
    detail: str

    @property
    def is_terminal(self) -> bool:
        """Whether trying again under this recipe is no use."""
        return self.reason not in _TRANSIENT


@dataclass(frozen=True, kw_only=True, slots=True)
class MetVideo:
    """A source after it was looked at."""

    source: Source
    video_id: str | None
    """None where the file could not be read."""
    duration_us: int | None
    """None where it is rejected."""
    probe: VideoProbe | VideoFacts | None
    """None where the catalog knew the video already, or it is rejected."""
    segments: tuple[Segment, ...]
    """What tiles the video; empty where it is rejected."""
    reject: Reject | None
    """Why the whole video cannot be used."""
    is_read: bool
    """Whether its bytes were read for this."""
    is_new: bool
    """Whether the catalog did not say all this before."""


def meet_video(
    file: SourceFile,
    known: Known,
    rule: SegmentConfig,
    reader: VideoReader,
    *,
    watch: Stopwatch,
    tokens: KeptTokens | None = None,
) -> MetVideo:
    """Find out what a source is, reading no more than the catalog leaves open.

    A video that another recipe has met is not opened where `tokens` has all its segments.
    """
    source = file.source
    earlier = known.rejected.get(source.source_id)
    if earlier is not None:
        reject = Reject(reason=Reason(earlier["reason"]), detail=earlier["detail"] or "")
        return _rejected(source, earlier["video_id"], reject)
    video = known.videos.get(source.source_id)
    if video is not None and video.duration_us is not None:
        return MetVideo(
            source=source,
            video_id=video.video_id,
            duration_us=video.duration_us,
            probe=None,
            segments=plan_segments(video.duration_us, rule),
            reject=None,
            is_read=False,
            is_new=False,
        )
    if video is not None and tokens is not None:
        facts = known.elsewhere.get(video.video_id)
        if facts is not None and tokens.covers(video.video_id, facts.duration_us, rule):
            return _met(source, video.video_id, facts, rule, is_read=False)
    return _read(file, video.video_id if video else None, rule, reader, watch=watch)


def _read(
    file: SourceFile,
    video_id: str | None,
    rule: SegmentConfig,
    reader: VideoReader,
    *,
    watch: Stopwatch,
) -> MetVideo:
    is_read = video_id is None
    try:
        path = file.path()
        with watch.measure("read"):
            facts = reader.meet(path, is_hashed=not is_read)
    except VideoError as error:
        reject = Reject(reason=error.reason, detail=error.detail)
        found_id = video_id or error.video_id
        return _rejected(file.source, found_id, reject, is_read=is_read, is_new=True)
    found_id = video_id or facts.video_id
    assert found_id is not None
    return _met(file.source, found_id, facts.probe, rule, is_read=is_read)


def _met(
    source: Source,
    video_id: str,
    found: VideoProbe | VideoFacts,
    rule: SegmentConfig,
    *,
    is_read: bool,
) -> MetVideo:
    return MetVideo(
        source=source,
        video_id=video_id,
        duration_us=found.duration_us,
        probe=found,
        segments=plan_segments(found.duration_us, rule),
        reject=None,
        is_read=is_read,
        is_new=True,
    )


def _rejected(
    source: Source,
    video_id: str | None,
    reject: Reject,
    *,
    is_read: bool = False,
    is_new: bool = False,
) -> MetVideo:
    return MetVideo(
        source=source,
        video_id=video_id,
        duration_us=None,
        probe=None,
        segments=(),
        reject=reject,
        is_read=is_read,
        is_new=is_new,
    )
