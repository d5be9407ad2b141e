"""Every file below a lake's root with its size and age, temporary ones included."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec

from storage.remote import is_remote


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """A file as a listing shows it."""

    name: str
    """Path below the root."""
    size_bytes: int
    modified_s: float
    """When it was written or refreshed, in seconds since 1970."""


class FileListing:
    """Lists the files of one lake."""

    def __init__(self, root: str, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Use `root`, a path or an `s3://` URI read through `filesystem`."""
        self._root = root.rstrip("/")
        self._files = filesystem or fsspec.filesystem("file")
        self._is_remote = is_remote(root)

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        """List the files of a folder and of those below it."""
        top = f"{self._root}/{folder}".rstrip("/")
        prefix = self._root.partition("://")[2] if self._is_remote else self._root
        for path, info in sorted(self._files.find(top, detail=True).items()):
            yield _stored(path.removeprefix(f"{prefix}/"), info)

    def file(self, name: str) -> StoredFile | None:
        """Look at one file; None where there is none."""
        try:
            info = self._files.info(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return _stored(name, info) if info["type"] == "file" else None


def _stored(name: str, info: dict[str, Any]) -> StoredFile:
    modified = info.get("mtime", info.get("LastModified", 0.0))
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    return StoredFile(name=name, size_bytes=int(info["size"]), modified_s=seconds)
