"""A video's identity: what its bytes are, not what it is called or where it lies."""

import hashlib
from pathlib import Path

from video2lora_core.errors import Reason, VideoError


def content_id(path: Path) -> str:
    """Return the `video_id`: the sha256 of the file's bytes in hex, read in blocks.

    Raises:
        VideoError: SRC_NOT_FOUND or SRC_IO.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise VideoError(Reason.SRC_NOT_FOUND, f"{path.name}: there is no such file") from error
    except OSError as error:
        raise VideoError(Reason.SRC_IO, f"{path.name}: {error.strerror}") from error
