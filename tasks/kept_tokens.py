"""A shard's side of the kept visual tokens: what cannot be read or written is not there.

Files of the lake stand behind it (storage/token_store.py). It answers from several threads, and it
never fails: a fault is logged, the first of its kind as a warning, and the video is decoded.
"""

import logging
import threading
from collections.abc import Mapping
from typing import Final

from configs.schema import SegmentConfig
from storage.errors import AdapterIntegrityError, ObjectMissingError, StorageError
from storage.object_store import ObjectStore
from storage.token_store import Span, TokenFile, TokenStore
from tasks.known import plan_segments
from tasks.sight import Sight
from video2lora_core.segments import Segment
from video2lora_core.visual_tokens import SeenSegment, seen_bytes, seen_from_bytes

logger = logging.getLogger(__name__)

_DECODED: Final = "the video is decoded instead"


class KeptTokens:
    """The visual tokens of one sight in one lake."""

    def __init__(self, objects: ObjectStore, sight: Sight, *, model_name: str) -> None:
        """Read nothing yet; `model_name` is shown to people."""
        self._store = TokenStore(objects, sight.sight_id)
        self._description = {"model": model_name, "content": sight.content}
        self._lock = threading.Lock()
        self._is_described = False
        self._warned: set[str] = set()

    def find(self, video_id: str) -> Mapping[Span, TokenFile]:
        """List what is there of a video, by span."""
        try:
            return self._store.find(video_id)
        except StorageError as error:
            self._warn("list", f"{error}; {_DECODED}")
            return {}

    def covers(self, video_id: str, duration_us: int, rule: SegmentConfig) -> bool:
        """Say whether every segment of a video of this length is there."""
        there = self.find(video_id)
        segments = plan_segments(duration_us, rule)
        return all((segment.start_us, segment.end_us) in there for segment in segments)

    def get(self, file: TokenFile) -> SeenSegment | None:
        """Read a segment's visual tokens; None where the file is gone, or damaged and removed."""
        segment = Segment(start_us=file.start_us, end_us=file.end_us)
        try:
            data = self._store.get(file)
            return seen_from_bytes(data, video_id=file.video_id, segment=segment)
        except ObjectMissingError:
            return None
        except (AdapterIntegrityError, ValueError) as error:
            logger.warning("%s is removed: %s; %s", file.name, error, _DECODED)
            self._remove(file)
        except StorageError as error:
            self._warn("read", f"{error}; {_DECODED}")
        return None

    def put(self, video_id: str, seen: SeenSegment) -> None:
        """Keep what was seen in a segment."""
        span = (seen.segment.start_us, seen.segment.end_us)
        try:
            self._describe()
            self._store.put(video_id, span, seen_bytes(seen, video_id=video_id))
        except StorageError as error:
            self._warn("write", f"{error}; adapters are made all the same")

    def _describe(self) -> None:
        with self._lock:
            is_told, self._is_described = self._is_described, True
        if not is_told:
            self._store.describe(self._description)

    def _remove(self, file: TokenFile) -> None:
        try:
            self._store.remove(file)
        except (StorageError, OSError) as error:
            self._warn("remove", str(error))

    def _warn(self, kind: str, text: str) -> None:
        with self._lock:
            is_first = kind not in self._warned
            self._warned.add(kind)
        level = logging.WARNING if is_first else logging.DEBUG
        logger.log(level, "visual tokens: cannot %s them: %s", kind, text)
