"""Room for copies of remote videos: bounded, in plan order, cleaned up after a kill."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from storage.errors import StorageError
from storage.manifest import Source, list_sources
from tasks import source_file
from tasks.crew import Crew, StoppedError
from tasks.scratch import Scratch
from tasks.source_file import SourceFile
from tasks.stopwatch import Stopwatch
from tasks.summary import RunSummary
from tests.pipeline.shard_fakes import wait_until
from video2lora_core.errors import Reason, VideoError

Run = Callable[..., RunSummary]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where scratch folders are made in these tests."""
    root = tmp_path / "scratch"
    root.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(root))
    return root


def put(*contents: bytes) -> list[Source]:
    files = fsspec.filesystem("memory")
    if files.exists("/room"):
        files.rm("/room", recursive=True)
    for number, content in enumerate(contents):
        files.pipe_file(f"/room/{number}.mp4", content)
    return list(list_sources("memory://room"))


def test_room_is_given_in_plan_order_and_never_beyond_the_limit() -> None:
    taken: list[int] = []
    with Crew() as crew:
        scratch = Scratch(crew, limit_bytes=10)
        places = [scratch.place(order) for order in range(4)]
        for order in range(4):
            scratch.expect(order)

        def take(order: int) -> Callable[[], None]:
            def body() -> None:
                places[order].reserve("a.mp4", 6)
                taken.append(order)

            return body

        for order in (3, 1, 0):
            crew.start("reader", take(order))
        wait_until(lambda: taken == [0] and crew.is_stuck("reader"))
        places[0].free()
        wait_until(lambda: taken == [0, 1] and crew.is_stuck("reader"))
        places[1].free()
        wait_until(lambda: crew.is_stuck("reader"))
        assert taken == [0, 1]  # the third has not said yet whether it needs room
        places[2].free()
        wait_until(lambda: taken == [0, 1, 3])
        scratch.close()


def test_who_waits_for_room_ends_with_the_shard() -> None:
    ended = threading.Event()
    with Crew() as crew:
        scratch = Scratch(crew, limit_bytes=10)
        scratch.expect(0)
        scratch.expect(1)

        def body() -> None:
            try:
                scratch.place(1).reserve("b.mp4", 6)
            except StoppedError:
                ended.set()

        crew.start("reader", body)
        wait_until(lambda: crew.is_stuck("reader"))
    assert ended.is_set()


def test_a_file_larger_than_the_room_is_a_reject() -> None:
    [source] = put(b"x" * 11)
    with Crew() as crew:
        scratch = Scratch(crew, limit_bytes=10)
        scratch.expect(0)
        with (
            SourceFile(source, scratch.place(0), watch=Stopwatch()) as file,
            pytest.raises(VideoError, match=r"decode\.scratch_bytes") as caught,
        ):
            file.path()
    assert caught.value.reason == Reason.TOO_LARGE


def test_a_copy_lies_in_the_room_until_its_source_is_through(root: Path) -> None:
    [source] = put(b"film")
    with Crew() as crew:
        scratch = Scratch(crew, limit_bytes=10)
        scratch.expect(0)
        with SourceFile(source, scratch.place(0), watch=Stopwatch()) as file:
            path = file.path()
            assert path.read_bytes() == b"film"
            assert file.path() is path
        assert not path.exists()
        scratch.close()
    assert list(root.iterdir()) == []


def test_a_source_outside_a_shard_has_room_of_its_own(root: Path) -> None:
    [source] = put(b"film")
    with SourceFile(source) as file:
        assert file.path().read_bytes() == b"film"
    assert list(root.iterdir()) == []


def test_a_full_disk_stops_the_shard_and_names_the_place(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source_file, "fetch", fill)
    [source] = put(b"film")
    with Crew() as crew:
        scratch = Scratch(crew, limit_bytes=10)
        scratch.expect(0)
        with (
            SourceFile(source, scratch.place(0), watch=Stopwatch()) as file,
            pytest.raises(StorageError, match=r"No space left on device.*TMPDIR") as caught,
        ):
            file.path()
        scratch.close()
    assert str(caught.value).startswith(str(root))


KILLED = """
import os, signal, sys, tempfile
from tasks.crew import Crew
from tasks.scratch import Scratch
tempfile.tempdir = sys.argv[1]
scratch = Scratch(Crew(), limit_bytes=10)
scratch.expect(0)
(scratch.place(0).reserve("a.mp4", 5) / "a.mp4").write_bytes(b"left")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_not(root: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(root)], timeout=300, check=False)
    [left] = root.iterdir()
    assert (left / "0" / "a.mp4").read_bytes() == b"left"
    with Crew() as crew:
        scratch, other = Scratch(crew, limit_bytes=10), Scratch(crew, limit_bytes=10)
        scratch.expect(0)
        mine = scratch.place(0).reserve("a.mp4", 5)
        assert [mine.parent] == list(root.iterdir())
        other.expect(0)
        other.place(0).reserve("a.mp4", 5)
        assert mine.is_dir()
        scratch.close()
        other.close()


def test_a_small_room_holds_nobody_up(run: Run, shelf: Path) -> None:
    films = [(shelf / name).read_bytes() for name in ("short.mp4", "long.mp4")]
    put(films[0], films[1], films[0] + b"x", films[1] + b"x", b"no film")
    room = max(map(len, films)) + 1
    summary = run(
        corpus="memory://room",
        unit_segments=2,
        decode={"workers": 0, "scratch_bytes": room, "ahead_segments": 0},
    )
    assert (summary.shards.num_segments, summary.shards.num_rejects) == (10, 1)
