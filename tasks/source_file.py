"""A source's file as a local path: the one place that knows where videos come from."""

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Self

from storage.manifest import Source
from storage.remote import file_system, is_remote
from video2lora_core.errors import Reason, VideoError

logger = logging.getLogger(__name__)


class SourceFile:
    """Fetches a source when its path is first asked for, and removes the copy at the end.

    A local file is used where it lies. A remote one is copied once, whole: hashing and decoding
    read all of it anyway.
    """

    def __init__(self, source: Source) -> None:
        """Wrap a source; nothing is read."""
        self.source = source
        self._path: Path | None = None
        self._scratch: Path | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the copy of a remote file."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def path(self) -> Path:
        """Return where the file is, on this machine.

        Raises:
            VideoError: SRC_NOT_FOUND or SRC_IO, also where it is not the file that was planned.
        """
        if self._path is None:
            name = Path(self.source.uri).name
            try:
                self._path = self._fetched() if is_remote(self.source.uri) else self._in_place()
            except FileNotFoundError:
                raise VideoError(Reason.SRC_NOT_FOUND, f"{name}: there is no such file") from None
            except OSError as error:
                raise VideoError(Reason.SRC_IO, f"{name}: {error}") from error
        return self._path

    def _in_place(self) -> Path:
        path = Path(self.source.uri)
        found = path.stat()
        if (found.st_size, str(found.st_mtime_ns)) != (
            self.source.size_bytes,
            self.source.version_token,
        ):
            raise VideoError(Reason.SRC_IO, f"{path.name}: changed since the run was planned")
        return path

    def _fetched(self) -> Path:
        self._scratch = Path(tempfile.mkdtemp(prefix="video2lora-"))
        path = self._scratch / Path(self.source.uri).name
        file_system(self.source.uri).get_file(self.source.uri, str(path))
        if path.stat().st_size != self.source.size_bytes:
            raise VideoError(Reason.SRC_IO, f"{path.name}: changed since the run was planned")
        logger.info("%s: fetched %d bytes", self.source.uri, path.stat().st_size)
        return path
