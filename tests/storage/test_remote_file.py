"""Copies of remote videos: the planned version or none; a network that fails for a moment."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from storage import remote_file
from storage.manifest import Source, list_sources
from storage.remote_file import FileChangedError, fetch

CONTENT = bytes(range(256)) * 40


class FlakyFile:
    """A remote file whose reader breaks off after some blocks."""

    def __init__(self, file: Any, *, num_blocks: int) -> None:
        self.file = file
        self.num_blocks = num_blocks

    def __enter__(self) -> "FlakyFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def seek(self, position: int) -> None:
        self.file.seek(position)

    def read(self, size: int) -> bytes:
        self.num_blocks -= 1
        if self.num_blocks < 0:
            raise ConnectionResetError("connection reset by peer")
        return self.file.read(size)


class FlakyFiles:
    """A file system that counts and breaks off."""

    def __init__(self, *, num_blocks: int) -> None:
        self.files = fsspec.filesystem("memory")
        self.num_blocks = num_blocks
        self.num_opened = 0

    def info(self, uri: str) -> dict[str, Any]:
        return self.files.info(uri)

    def open(self, uri: str, mode: str, **options: Any) -> FlakyFile:
        self.num_opened += 1
        return FlakyFile(self.files.open(uri, mode, **options), num_blocks=self.num_blocks)


@pytest.fixture
def source() -> Source:
    fsspec.filesystem("memory").pipe_file("/films/a.mp4", CONTENT)
    [found] = list_sources("memory://films")
    return found


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], FlakyFiles]:
    def make(num_blocks: int) -> FlakyFiles:
        files = FlakyFiles(num_blocks=num_blocks)
        monkeypatch.setattr(remote_file, "file_system", lambda _: files)
        monkeypatch.setattr(remote_file, "_BLOCK_BYTES", 1024)
        monkeypatch.setattr(remote_file, "_PAUSE_S", 0.0)
        return files

    return make


def copy(source: Source, directory: Path) -> bytes:
    target = directory / "copy.mp4"
    fetch(source.uri, target, size_bytes=source.size_bytes, token=source.version_token)
    return target.read_bytes()


def test_a_copy_is_the_file(source: Source, tmp_path: Path) -> None:
    assert copy(source, tmp_path) == CONTENT


def test_a_broken_connection_goes_on_where_the_copy_stands(
    source: Source, tmp_path: Path, flaky: Callable[[int], FlakyFiles]
) -> None:
    files = flaky(3)  # ten blocks in all, and the empty one that ends the file
    assert copy(source, tmp_path) == CONTENT
    assert files.num_opened == 4


def test_a_connection_that_stays_broken_is_given_up(
    source: Source, tmp_path: Path, flaky: Callable[[int], FlakyFiles]
) -> None:
    files = flaky(0)
    with pytest.raises(OSError, match=r"connection reset by peer \(4 attempts\)"):
        copy(source, tmp_path)
    assert files.num_opened == 4


def test_another_version_is_not_copied(source: Source, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/films/a.mp4", CONTENT[::-1])
    with pytest.raises(FileChangedError, match="changed since the run was planned"):
        copy(source, tmp_path)
    assert (tmp_path / "copy.mp4").read_bytes() == b""


def test_a_file_that_is_gone_is_not_asked_for_again(
    source: Source, tmp_path: Path, flaky: Callable[[int], FlakyFiles]
) -> None:
    files = flaky(99)
    fsspec.filesystem("memory").rm("/films/a.mp4")
    with pytest.raises(FileNotFoundError):
        copy(source, tmp_path)
    assert files.num_opened == 0


def test_a_full_disk_is_not_the_networks_fault(
    source: Source, flaky: Callable[[int], FlakyFiles]
) -> None:
    files = flaky(99)
    with pytest.raises(OSError) as caught:  # noqa: PT011  (its number is what is looked at)
        fetch(
            source.uri,
            Path("/dev/full"),
            size_bytes=source.size_bytes,
            token=source.version_token,
        )
    assert caught.value.errno == errno.ENOSPC
    assert files.num_opened == 1
