"""Files appear whole, once, or not at all."""

import os
from pathlib import Path

import pytest

from storage.errors import ObjectError, ObjectMissingError
from storage.object_store import LocalObjectStore


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path)


def test_what_is_created_reads_back(objects: LocalObjectStore, tmp_path: Path) -> None:
    assert objects.create("a/b/c.bin", b"content")
    assert objects.read("a/b/c.bin") == b"content"
    assert objects.exists("a/b/c.bin")
    assert objects.uri("a/b/c.bin") == str(tmp_path / "a/b/c.bin")


def test_a_taken_name_is_left_alone(objects: LocalObjectStore) -> None:
    assert objects.create("a", b"first")
    assert not objects.create("a", b"second")
    assert objects.read("a") == b"first"


def test_a_creation_that_loses_the_race_leaves_no_trace(
    objects: LocalObjectStore, tmp_path: Path
) -> None:
    # The name is taken between the look and the link: a dangling link does not "exist".
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    assert not objects.create("a", b"late")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_creation_leaves_no_trace_and_names_the_file(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    with pytest.raises(ObjectError, match=r"cannot write it \(File name too long\)"):
        objects.create("n" * 300, b"x")
    objects.create("file", b"x")
    with pytest.raises(ObjectError, match="file/x: cannot write it"):
        objects.create("file/x", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_refreshing_makes_a_file_look_new(objects: LocalObjectStore, tmp_path: Path) -> None:
    objects.create("a", b"content")
    os.utime(tmp_path / "a", (1, 1))
    objects.refresh("a", b"content")
    assert (tmp_path / "a").stat().st_mtime > 1e9


def test_refreshing_a_vanished_file_writes_it_again(objects: LocalObjectStore) -> None:
    objects.refresh("a", b"content")
    assert objects.read("a") == b"content"


def test_a_missing_file_is_named(objects: LocalObjectStore) -> None:
    with pytest.raises(ObjectMissingError, match=r"a/b: no such file; restore it"):
        objects.read("a/b")


def test_an_unreadable_file_is_named(objects: LocalObjectStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ObjectError, match="folder: cannot read it"):
        objects.read("folder")


def test_listing_leaves_temporary_files_out(objects: LocalObjectStore, tmp_path: Path) -> None:
    objects.create("x/b", b"1")
    objects.create("x/y/a", b"2")
    (tmp_path / "x/.tmp-dead").write_bytes(b"half")
    assert list(objects.names("x")) == ["x/b", "x/y/a"]
    assert list(objects.names("nothing")) == []


def test_deleting_is_repeatable(objects: LocalObjectStore) -> None:
    objects.create("a", b"1")
    objects.delete("a")
    objects.delete("a")
    assert not objects.exists("a")
