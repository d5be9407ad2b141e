"""A remote video becomes a local copy: the version that was planned, or none.

The version is compared before the first byte, and where fsspec's reader knows it also while reading
(on S3 every GET then carries If-Match). A fault of the network is tried again from where the copy
stands; a file that is gone, changed or refused is not.
"""

import errno
import logging
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import fsspec
from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # it has no types

from storage.errors import reason_of
from storage.remote import file_system

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 4
_PAUSE_S: Final = 0.5
_BLOCK_BYTES: Final = 8 * 1024**2
_FINAL: Final = (FileNotFoundError, PermissionError)
_LOCAL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileChangedError(OSError):
    """The file is not the one that was planned."""


def version_token(info: Mapping[str, Any]) -> str | None:
    """Return what tells a file's versions apart: its etag, else its time; opaque."""
    names = ("ETag", "etag", "LastModified", "mtime", "created")
    found = next((info[name] for name in names if info.get(name)), None)
    # Some file systems give a time as a number in listings and as a datetime elsewhere.
    found = found.timestamp() if isinstance(found, datetime) else found
    return None if found is None else str(found)


def fetch(uri: str, target: Path, *, size_bytes: int | None, token: str | None) -> None:
    """Copy a remote file of this size and version to `target`.

    Raises:
        FileNotFoundError: it is gone.
        FileChangedError: it is another version than the planned one.
        OSError: it cannot be read, also not after some attempts; or the copy cannot be written
            (errno ENOSPC).
    """
    planned = (size_bytes, token)
    with target.open("wb") as copy:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _copy_rest(file_system(uri), uri, copy, planned)
            except _faults() as error:
                if _is_final(error):
                    raise
                if attempt == _ATTEMPTS:
                    raise OSError(f"{reason_of(error)} ({_ATTEMPTS} attempts)") from error
                logger.info("%s: attempt %d failed: %s", uri, attempt, reason_of(error))
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
            else:
                return


def _faults() -> tuple[type[Exception], ...]:
    from s3fs.core import S3_RETRYABLE_ERRORS  # a second of import, for remote files only

    return (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS)


def _is_final(error: Exception) -> bool:
    is_local = isinstance(error, OSError) and error.errno in _LOCAL
    return is_local or isinstance(error, (FileChangedError, *_FINAL))


def _copy_rest(
    files: fsspec.AbstractFileSystem,
    uri: str,
    copy: IO[bytes],
    planned: tuple[int | None, str | None],
) -> None:
    _check(files.info(uri), planned)
    with files.open(uri, "rb", cache_type="none") as source:
        if details := getattr(source, "details", None):
            _check(details, planned)
        source.seek(copy.tell())
        while block := source.read(_BLOCK_BYTES):
            copy.write(block)
    if copy.tell() != planned[0]:
        raise OSError(f"ended after {copy.tell()} of {planned[0]} bytes")


def _check(info: Mapping[str, Any], planned: tuple[int | None, str | None]) -> None:
    if (info.get("size"), version_token(info)) != planned:
        raise FileChangedError("changed since the run was planned")
