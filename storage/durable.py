"""Making local files survive a power cut: contents and directory entries are flushed to disk."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flush a file's contents, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
