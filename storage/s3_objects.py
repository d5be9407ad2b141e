"""Files under an `s3://` root, created by conditional puts.

Some stores ignore the condition and would let two writers overwrite each other, so the first write
of a process proves that a second put of one name fails, and writing is refused where it does not.

A put whose answer is lost is tried again by the client and then fails on its own first try. So each
put carries a mark of its own, and where the name is taken the mark says whether it was this put.
"""

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import fsspec
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # it has no types

from storage.errors import LakeError, ObjectError, ObjectMissingError, reason_of

# A put that loses the race uploads everything first, so large files look before they leap.
_LOOK_FIRST_BYTES: Final = 8 * 2**20
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.2
_MARK: Final = "created-by"
# Without a connection or credentials s3fs lets botocore's own errors through.
_FAULTS: Final = (OSError, BotoCoreError)


class S3ObjectStore:
    """Files below one prefix of a bucket; safe to use from several threads."""

    def __init__(self, root: str, files: fsspec.AbstractFileSystem) -> None:
        """Use `root`, an `s3://` URI, through `files`."""
        self._root = root.rstrip("/")
        self._files = files
        self._lock = threading.Lock()
        self._is_proven = False

    def uri(self, name: str) -> str:
        """Return the s3:// URI."""
        return f"{self._root}/{name}"

    def create(self, name: str, data: bytes) -> bool:
        """Put a file where there is none; False, changing nothing, where there is one."""
        self.require_conditional_create()
        if len(data) > _LOOK_FIRST_BYTES and self.exists(name):
            return False
        return self._create(name, data)

    def create_from(self, name: str, source: Path) -> bool:
        """Put a copy of a local file where there is none; a large one goes up in parts."""
        self.require_conditional_create()
        if source.stat().st_size > _LOOK_FIRST_BYTES and self.exists(name):
            return False
        return self._create(name, source)

    def open(self, name: str) -> BinaryIO:
        """Open a file to read parts of it, each by a request of its own."""
        try:
            return cast(BinaryIO, self._files.open(self.uri(name), "rb"))
        except FileNotFoundError as error:
            raise ObjectMissingError(
                f"{self.uri(name)}: no such file; restore it, or plan the run anew"
            ) from error
        except _FAULTS as error:
            raise ObjectError(self._failed("read", name, error)) from error

    def refresh(self, name: str, data: bytes) -> None:
        """Put the same content again, which makes it look new."""
        try:
            self._files.pipe_file(self.uri(name), data, mode="overwrite")
        except _FAULTS as error:
            raise ObjectError(self._failed("write", name, error)) from error

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        try:
            return bytes(self._files.cat_file(self.uri(name)))
        except FileNotFoundError as error:
            raise ObjectMissingError(
                f"{self.uri(name)}: no such file; restore it, or run again with its recipe"
            ) from error
        except _FAULTS as error:
            raise ObjectError(self._failed("read", name, error)) from error

    def exists(self, name: str) -> bool:
        """Say whether a file is there."""
        try:
            return bool(self._files.exists(self.uri(name)))
        except _FAULTS as error:
            raise ObjectError(self._failed("look at", name, error)) from error

    def names(self, folder: str) -> Iterator[str]:
        """List the files below a folder."""
        prefix = self._root.partition("://")[2] + "/"
        try:
            found = sorted(self._files.find(self.uri(folder)))
        except _FAULTS as error:
            raise ObjectError(self._failed("list", folder, error)) from error
        for path in found:
            yield path.removeprefix(prefix)

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        try:
            self._files.rm_file(self.uri(name))
        except FileNotFoundError:
            return
        except _FAULTS as error:
            raise ObjectError(self._failed("delete", name, error)) from error

    def require_conditional_create(self) -> None:
        """Prove once per process that a second put of one name fails.

        Raises:
            LakeError: it does not, so writing here could lose work.
        """
        with self._lock:
            if self._is_proven:
                return
            name = f".probe-{uuid.uuid4().hex}"
            is_safe = self._create(name, b"1") and not self._create(name, b"2")
            self.delete(name)
            if not is_safe:
                raise LakeError(
                    f"{self._root}: the store ignores conditional puts (If-None-Match), so writers "
                    "could overwrite each other; use a store that honours them"
                )
            self._is_proven = True

    def _create(self, name: str, data: bytes | Path) -> bool:
        mark = uuid.uuid4().hex
        options = {"mode": "create", "Metadata": {_MARK: mark}}
        for attempt in range(_ATTEMPTS):
            try:
                if isinstance(data, Path):
                    self._files.put_file(str(data), self.uri(name), **options)
                else:
                    self._files.pipe_file(self.uri(name), data, **options)
            except _FAULTS as error:
                if self._is_marked(name, mark, error):
                    return True
                if _code(error) == "PreconditionFailed" or isinstance(error, FileExistsError):
                    return False
                if _code(error) != "ConditionalRequestConflict":
                    raise ObjectError(self._failed("write", name, error)) from error
                time.sleep(_PAUSE_S * attempt)
            else:
                return True
        raise ObjectError(f"{self.uri(name)}: another writer holds it; run again")

    def _is_marked(self, name: str, mark: str, put_error: Exception) -> bool:
        try:
            return bool(self._files.metadata(self.uri(name)).get(_MARK) == mark)
        except FileNotFoundError:
            return False
        except _FAULTS as error:
            raise ObjectError(self._failed("write", name, put_error)) from error

    def _failed(self, verb: str, name: str, error: Exception) -> str:
        said = reason_of(error)
        return (
            f"{self.uri(name)}: cannot {verb} it ({said}); check bucket, credentials and endpoint"
        )


def _code(error: Exception) -> str:
    # s3fs answers a conflict with a plain OSError, errno 22; only its cause tells which.
    response: Any = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))
