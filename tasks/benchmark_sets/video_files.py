"""Benchmarks' names of videos, and the files that hold them."""

import os
from pathlib import Path, PurePosixPath

from storage.manifest import VIDEO_SUFFIXES
from tasks.benchmark_sets.rows import RowError
from video2lora_core.errors import UsageError


class VideoFiles:
    """The videos under a directory, found by file name, or by name without suffix."""

    def __init__(self, directory: Path) -> None:
        """List the directory to the bottom.

        Raises:
            UsageError: it is no directory, or holds no video.
        """
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such directory; give the one with the videos")
        self._directory = directory
        self._found: dict[str, list[Path]] = {}
        for folder, _, names in os.walk(directory):
            for name in names:
                if Path(name).suffix.lower() in VIDEO_SUFFIXES:
                    path = Path(folder, name)
                    for known in {path.name, path.stem}:
                        self._found.setdefault(known, []).append(path)
        if not self._found:
            raise UsageError(f"{directory}: holds no video; give the directory with the videos")

    def find(self, video: str) -> Path:
        """Return the file of a video; RowError where there is none, or more than one."""
        name = PurePosixPath(video).name
        # Another container than the benchmark's own will do; a dot within a name ends nothing.
        is_suffixed = PurePosixPath(name).suffix.lower() in VIDEO_SUFFIXES
        bare = PurePosixPath(name).stem if is_suffixed else name
        for candidate in (name, bare, f"v_{bare}"):
            found = self._found.get(candidate, [])
            if len(found) > 1:
                shown = ", ".join(str(path.relative_to(self._directory)) for path in sorted(found))
                raise RowError(f"video {video}: several files have its name ({shown})")
            if found:
                return found[0]
        raise RowError(f"video {video}: no file of this name under {self._directory}")
