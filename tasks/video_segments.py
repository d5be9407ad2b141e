"""One video's segments, in order: kept visual tokens where there are some, else frames.

The file is opened only when the first segment has to be decoded; where all are kept it is not even
fetched. Decoding is one pass over all segments that are not kept. If a kept one turns out to be
damaged it has to be decoded after all, so a pass that is under way is given up and another begins
there: rare, and the frames are the same.
"""

from collections.abc import Generator, Sequence

from tasks.kept_tokens import KeptTokens
from tasks.meet_video import Reject
from tasks.source_file import SourceFile
from tasks.video_reader import VideoReader
from tasks.work_stream import Slot
from video2lora_core.errors import VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject
from video2lora_core.visual_tokens import SeenSegment

Decoding = Generator[SegmentFrames | Reject]


class VideoSegments:
    """What becomes of the segments to do of one video; each is asked for once, in order."""

    def __init__(
        self,
        file: SourceFile,
        todo: Sequence[Slot],
        reader: VideoReader,
        *,
        tokens: KeptTokens | None,
    ) -> None:
        """Look which of `todo`, all of one video, are kept; open nothing."""
        self._file = file
        self._todo = todo
        self._reader = reader
        self._tokens = tokens
        self._kept = dict(tokens.find(todo[0].video_id)) if tokens and todo else {}
        self._decoding: Decoding | None = None
        self.is_opened = False
        """Whether anything had to be decoded."""

    def seen(self, slot: Slot) -> SeenSegment | None:
        """Return what was seen in a segment; None where it has to be decoded."""
        file = self._kept.get(_span(slot))
        if file is None or self._tokens is None:
            return None
        found = self._tokens.get(file)
        if found is None:
            del self._kept[_span(slot)]
            self._give_up()
        return found

    def decoded(self, slot: Slot) -> SegmentFrames | Reject:
        """Decode a segment for which `seen` gave nothing."""
        if self._decoding is None:
            self.is_opened = True
            left = self._todo[self._todo.index(slot) :]
            rest = [each for each in left if _span(each) not in self._kept]
            self._decoding = _without_errors(self._file, rest, self._reader)
        return next(self._decoding)

    def _give_up(self) -> None:
        decoding, self._decoding = self._decoding, None
        if decoding is not None:
            decoding.close()


def _span(slot: Slot) -> tuple[int, int]:
    return slot.segment.start_us, slot.segment.end_us


def _without_errors(file: SourceFile, todo: Sequence[Slot], reader: VideoReader) -> Decoding:
    """Decode; whatever goes wrong with the file becomes the reject of all that is left."""
    try:
        for outcome in reader.decode(file.path(), [slot.segment for slot in todo]):
            if isinstance(outcome, SegmentReject):
                yield Reject(reason=outcome.reason, detail=outcome.detail)
            else:
                yield outcome
    except VideoError as error:
        reject = Reject(reason=error.reason, detail=error.detail)
        while True:
            yield reject
    raise AssertionError("a reader must yield every segment")
