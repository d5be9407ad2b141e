"""A video's identity: what its bytes are, not what it is called or where it lies."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from video2lora_core.errors import Reason, VideoError


def content_id(path: Path) -> str:
    """Return the `video_id`: the sha256 of the file's bytes in hex, read in blocks.

    Raises:
        VideoError: SRC_NOT_FOUND or SRC_IO.
    """
    file_size(path)
    with _source_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_size(path: Path, *, max_bytes: int | None = None) -> int:
    """Return the bytes of a regular file that may be read.

    Raises:
        VideoError: SRC_NOT_FOUND, SRC_IO or TOO_LARGE.
    """
    with _source_errors(path):
        # Looked at before it is opened: opening a pipe would wait for a writer.
        is_file, size_bytes = path.is_file(), path.stat().st_size
        if is_file:
            path.open("rb").close()
    if not is_file:
        raise VideoError(Reason.SRC_IO, f"{path.name}: not a regular file")
    if max_bytes is not None and size_bytes > max_bytes:
        detail = f"{path.name}: the file has {size_bytes} bytes (expected at most {max_bytes})"
        raise VideoError(Reason.TOO_LARGE, detail)
    return size_bytes


@contextmanager
def _source_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise VideoError(Reason.SRC_NOT_FOUND, f"{path.name}: there is no such file") from error
    except OSError as error:
        raise VideoError(Reason.SRC_IO, f"{path.name}: {error.strerror}") from error
