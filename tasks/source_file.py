"""A source's file as a local path: the one place that knows where videos come from."""

import logging
from pathlib import Path
from typing import Self

from storage.errors import reason_of
from storage.manifest import Source
from storage.remote import is_remote
from storage.remote_file import FileChangedError, fetch
from tasks.scratch import DISK_FULL, Place, full_or_broken, lone_place
from tasks.stopwatch import Stopwatch
from video2lora_core.errors import Reason, VideoError

logger = logging.getLogger(__name__)


class SourceFile:
    """Fetches a source when its path is first asked for, and removes the copy at the end.

    A local file is used where it lies. A remote one is copied once, whole: hashing and decoding
    read all of it anyway. What fails here is the storage's fault (SRC_NOT_FOUND, SRC_IO) and never
    the video's; credentials are used in this process only.
    """

    def __init__(
        self, source: Source, place: Place | None = None, *, watch: Stopwatch | None = None
    ) -> None:
        """Wrap a source; nothing is read. Outside a shard it needs no `place` among others."""
        self.source = source
        self._place = place or lone_place()
        self._watch = watch or Stopwatch()
        self._path: Path | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the copy of a remote file."""
        self._place.free()

    def path(self) -> Path:
        """Return where the file is, on this machine.

        Raises:
            VideoError: SRC_NOT_FOUND or SRC_IO, also where it is not the file that was planned;
                TOO_LARGE where there can be no room for a copy.
            StorageError: the disk for copies is full.
        """
        if self._path is None:
            name = Path(self.source.uri).name
            try:
                self._path = self._fetched() if is_remote(self.source.uri) else self._in_place()
            except FileNotFoundError:
                raise VideoError(Reason.SRC_NOT_FOUND, f"{name}: there is no such file") from None
            except OSError as error:
                raise VideoError(Reason.SRC_IO, f"{name}: {reason_of(error)}") from error
        return self._path

    def _in_place(self) -> Path:
        path = Path(self.source.uri)
        found = path.stat()
        planned = (self.source.size_bytes, self.source.version_token)
        if (found.st_size, str(found.st_mtime_ns)) != planned:
            raise FileChangedError("changed since the run was planned")
        return path

    def _fetched(self) -> Path:
        name, size_bytes = Path(self.source.uri).name, self.source.size_bytes
        path = self._place.reserve(name, size_bytes or 0) / name
        try:
            with self._watch.measure("fetch"):
                fetch(
                    self.source.uri,
                    path,
                    size_bytes=size_bytes,
                    token=self.source.version_token,
                )
        except OSError as error:
            if error.errno in DISK_FULL:
                raise full_or_broken(path.parent, error) from error
            raise
        logger.info("%s: fetched %d bytes", self.source.uri, size_bytes or 0)
        return path
