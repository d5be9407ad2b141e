"""Room on this machine's disk for copies of remote videos: bounded, given in plan order.

In plan order, because sources are numbered in it: a later source that held the last room while an
earlier one waits for some would wait for that one's number for ever. So a source waits until every
earlier one that is being read has its room or is through.

A process that was killed leaves its copies behind. Each process keeps a lock on its folder for as
long as it lives, and the next one that needs room removes the folders nobody holds.
"""

import errno
import fcntl
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import IO, Final

from storage.errors import StorageError
from tasks.crew import Crew
from video2lora_core.errors import Reason, VideoError

logger = logging.getLogger(__name__)

_PREFIX: Final = "video2lora-scratch-"
_LOCK: Final = "in-use"
DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Scratch:
    """The room of one shard; the folder is made when it is first needed."""

    def __init__(self, crew: Crew, *, limit_bytes: int) -> None:
        """Give out at most `limit_bytes` at once."""
        self._crew = crew
        self._limit_bytes = limit_bytes
        self._undecided: set[int] = set()
        self._used: dict[int, int] = {}
        self._folder: Path | None = None
        self._lock: IO[str] | None = None

    def expect(self, order: int) -> None:
        """The source at `order` is being read and may need room; called under the crew's lock."""
        self._undecided.add(order)

    def place(self, order: int) -> "Place":
        """Return what the source at `order` asks for its room."""
        return Place(self, order)

    def close(self) -> None:
        """Remove the folder; nothing in it is in use any more."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()

    def reserve(self, order: int, *, name: str, size_bytes: int) -> Path:
        """Wait for room and return a folder for the copy; see Place."""
        if size_bytes > self._limit_bytes:
            raise VideoError(
                Reason.TOO_LARGE,
                f"{name}: {size_bytes} bytes (expected at most decode.scratch_bytes = "
                f"{self._limit_bytes}, the room for copies of remote files)",
            )
        with self._crew.changing():
            self._crew.wait_for(lambda: self._has_room(order, size_bytes))
            self._undecided.discard(order)
            self._used[order] = size_bytes
            folder = self._made_folder() / str(order)
            folder.mkdir()
            return folder

    def free(self, order: int) -> None:
        """The source at `order` is through."""
        if order in self._used and self._folder is not None:
            shutil.rmtree(self._folder / str(order), ignore_errors=True)
        with self._crew.changing():
            self._undecided.discard(order)
            self._used.pop(order, None)

    def _has_room(self, order: int, size_bytes: int) -> bool:
        is_first = min(self._undecided) == order
        return is_first and sum(self._used.values()) + size_bytes <= self._limit_bytes

    def _made_folder(self) -> Path:
        if self._folder is None:
            root = Path(tempfile.gettempdir())
            try:
                _remove_left_behind(root)
                self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
                self._lock = _locked(self._folder)
            except OSError as error:
                raise full_or_broken(root, error) from error
        return self._folder


class Place:
    """One source's room."""

    def __init__(self, scratch: Scratch, order: int, *, is_only: bool = False) -> None:
        """Hold nothing yet; the only place of a scratch folder takes it along in the end."""
        self._scratch = scratch
        self._order = order
        self._is_only = is_only

    def reserve(self, name: str, size_bytes: int) -> Path:
        """Wait for room for a copy and return an empty folder for it.

        Raises:
            VideoError: TOO_LARGE, where it would not fit even alone.
            StorageError: the disk is full.
        """
        return self._scratch.reserve(self._order, name=name, size_bytes=size_bytes)

    def free(self) -> None:
        """Give the room back, or say that none was needed."""
        self._scratch.free(self._order)
        if self._is_only:
            self._scratch.close()


def lone_place() -> Place:
    """Return room for one source alone, without a limit and without a shard."""
    scratch = Scratch(Crew(), limit_bytes=sys.maxsize)
    scratch.expect(0)
    return Place(scratch, 0, is_only=True)


def full_or_broken(folder: Path, error: OSError) -> StorageError:
    """Return the error that stops a shard whose scratch folder cannot be written."""
    return StorageError(
        f"{folder}: cannot write a copy of a remote video ({error.strerror}); free space there, "
        "lower decode.scratch_bytes, or set TMPDIR to a larger disk, and run again"
    )


def _remove_left_behind(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        try:
            _locked(folder).close()
        except OSError:  # somebody uses it, or owns it, or has just removed it
            continue
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("%s: removed, its process is gone", folder)


def _locked(folder: Path) -> IO[str]:
    lock = (folder / _LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock
