"""Frames for training: decoded when a batch needs them, kept while memory allows."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from configs.schema import DecodeConfig, ModelConfig
from tasks.source_file import SourceFile
from tasks.training_videos import TrainVideo
from tasks.video_reader import InProcessReader
from video2lora_core.errors import VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject
from video2lora_core.segments import Segment

Found = SegmentFrames | VideoError


class FrameShelf:
    """Decodes spans of videos and keeps the latest ones; safe to use from several threads."""

    def __init__(self, model: ModelConfig, *, num_frames: int, cache_bytes: int) -> None:
        """Give each span `num_frames` frames; keep at most `cache_bytes` of pixels."""
        cut = model.segments.model_copy(update={"num_frames": num_frames})
        self._reader = InProcessReader(
            model=model.model_copy(update={"segments": cut}),
            decoder="pyav",
            limits=DecodeConfig(),
        )
        self._cache_bytes, self._held_bytes = cache_bytes, 0
        self._kept: OrderedDict[tuple[str, Segment], Found] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, video: TrainVideo, spans: Sequence[Segment]) -> dict[Segment, Found]:
        """Return the frames of each span, or why there are none."""
        found = {span: kept for span in spans if (kept := self._look_up(video, span)) is not None}
        missing = sorted(set(spans) - set(found))
        if missing:
            found |= self._decode(video, missing)
        return found

    def _decode(self, video: TrainVideo, spans: Sequence[Segment]) -> dict[Segment, Found]:
        found: dict[Segment, Found] = {}
        try:
            with SourceFile(video.source) as file:
                for apart in without_overlap(spans):
                    for item in self._reader.decode(file.path(), apart):
                        found[item.segment] = _whole(item)
        except VideoError as error:
            found |= {span: error for span in spans if span not in found}
        for span, outcome in found.items():
            self._keep(video, span, outcome)
        return found

    def _look_up(self, video: TrainVideo, span: Segment) -> Found | None:
        with self._lock:
            found = self._kept.get((video.video_id, span))
            if found is not None:
                self._kept.move_to_end((video.video_id, span))
            return found

    def _keep(self, video: TrainVideo, span: Segment, item: Found) -> None:
        with self._lock:
            if (video.video_id, span) in self._kept:
                return
            self._kept[video.video_id, span] = item
            self._held_bytes += _size_bytes(item)
            while self._held_bytes > self._cache_bytes and self._kept:
                _, oldest = self._kept.popitem(last=False)
                self._held_bytes -= _size_bytes(oldest)


def without_overlap(spans: Sequence[Segment]) -> Iterator[list[Segment]]:
    """Divide sorted spans into lists that one pass over the file can serve."""
    left = sorted(spans)
    while left:
        taken: list[Segment] = []
        rest: list[Segment] = []
        for span in left:
            fits = not taken or span.start_us >= taken[-1].end_us
            (taken if fits else rest).append(span)
        yield taken
        left = rest


def _whole(item: SegmentFrames | SegmentReject) -> Found:
    return item if isinstance(item, SegmentFrames) else VideoError(item.reason, item.detail)


def _size_bytes(item: Found) -> int:
    return item.pixels.nbytes if isinstance(item, SegmentFrames) else 0
