"""Files under the lake's root, by name: created once, whole or not at all.

A name is a relative path with forward slashes. `create` never overwrites: the one that comes first
wins, on local disks through a hard link and on S3 through a conditional put, so two writers of the
same content-addressed name do no harm. Nothing half-written is ever visible under a final name.
"""

import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from storage.durable import sync
from storage.errors import ObjectError, ObjectMissingError

_TEMPORARY_PREFIX: Final = ".tmp-"
_COPY_BYTES: Final = 1 << 20


class ObjectStore(Protocol):
    """What the rest of storage needs of a place for files."""

    def uri(self, name: str) -> str:
        """Return where a file is, for people and other programs."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Publish a file under a free name; return False, changing nothing, where it is taken."""
        ...

    def create_from(self, name: str, source: Path) -> bool:
        """Publish a copy of a local file, as `create` does, without holding it in memory."""
        ...

    def open(self, name: str) -> BinaryIO:
        """Open a file to read parts of it; ObjectMissingError where there is none."""
        ...

    def refresh(self, name: str, data: bytes) -> None:
        """Make an existing file of the same content look new, so that no clean-up takes it."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes; ObjectMissingError where there is none."""
        ...

    def exists(self, name: str) -> bool:
        """Say whether a file is there."""
        ...

    def names(self, folder: str) -> Iterator[str]:
        """List the files below a folder, temporary ones left out."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        ...


class LocalObjectStore:
    """Files in a local directory."""

    def __init__(self, root: Path) -> None:
        """Use `root`, an absolute path."""
        self._root = root

    def uri(self, name: str) -> str:
        """Return the absolute path."""
        return str(self._root / name)

    def create(self, name: str, data: bytes) -> bool:
        """Write beside the target, fsync, link under the final name, fsync the directory."""
        return self._create(name, io.BytesIO(data))

    def create_from(self, name: str, source: Path) -> bool:
        """Publish a copy of a local file."""
        with source.open("rb") as file:
            return self._create(name, file)

    def open(self, name: str) -> BinaryIO:
        """Open a file to read parts of it."""
        path = self._root / name
        try:
            return path.open("rb")
        except FileNotFoundError as error:
            raise ObjectMissingError(_missing(str(path))) from error
        except OSError as error:
            raise ObjectError(_failed("read", path, error)) from error

    def refresh(self, name: str, data: bytes) -> None:
        """Set the modification time to now; write the file again where it has vanished."""
        try:
            os.utime(self._root / name)
        except FileNotFoundError:
            self.create(name, data)

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        path = self._root / name
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise ObjectMissingError(_missing(str(path))) from error
        except OSError as error:
            raise ObjectError(_failed("read", path, error)) from error

    def exists(self, name: str) -> bool:
        """Say whether a file is there."""
        return (self._root / name).exists()

    def names(self, folder: str) -> Iterator[str]:
        """List the files below a folder."""
        for path in sorted((self._root / folder).rglob("*")):
            if path.is_file() and not path.name.startswith(_TEMPORARY_PREFIX):
                yield path.relative_to(self._root).as_posix()

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        (self._root / name).unlink(missing_ok=True)

    def _create(self, name: str, source: BinaryIO) -> bool:
        path = self._root / name
        try:
            return not path.exists() and _publish(path, source)
        except OSError as error:
            raise ObjectError(_failed("write", path, error)) from error


def _publish(path: Path, source: BinaryIO) -> bool:
    _make_directories(path.parent)
    temporary = path.parent / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        _write_durably(temporary, source)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return True


def _write_durably(path: Path, source: BinaryIO) -> None:
    with path.open("xb") as file:
        shutil.copyfileobj(source, file, _COPY_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _make_directories(directory: Path) -> None:
    if directory.is_dir():
        return
    _make_directories(directory.parent)
    directory.mkdir(exist_ok=True)
    sync(directory.parent)


def _missing(uri: str) -> str:
    return f"{uri}: no such file; restore it, or run again with the recipe that made it"


def _failed(verb: str, path: Path, error: OSError) -> str:
    return f"{path}: cannot {verb} it ({error.strerror}); check space and permissions"
