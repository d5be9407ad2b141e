"""Adapters and checkpoints are named by what they hold, and checked when read."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.adapter_store import AdapterStore
from storage.errors import AdapterIntegrityError, LakeError, ObjectMissingError
from storage.identity import sha256_hex
from storage.lake import Lake
from storage.object_store import LocalObjectStore


class Memory(LocalObjectStore):
    """A store that keeps its files in a dictionary."""

    def __init__(self) -> None:
        super().__init__(Path("/memory"))
        self.files: dict[str, bytes] = {}

    def create(self, name: str, data: bytes) -> bool:
        is_free = name not in self.files
        self.files.setdefault(name, data)
        return is_free

    def refresh(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def read(self, name: str) -> bytes:
        return self.files[name]

    def exists(self, name: str) -> bool:
        return name in self.files


@given(st.binary(max_size=100))
def test_whatever_is_put_reads_back_under_its_sha256(data: bytes) -> None:
    store = AdapterStore(Memory())
    sha256 = store.put(data)
    assert sha256 == sha256_hex(data)
    assert store.get(sha256) == data
    assert store.uri(sha256).endswith(f"adapters/{sha256[:2]}/{sha256}.safetensors")


def test_the_same_adapter_is_kept_once_and_made_to_look_new(lake: Lake) -> None:
    sha256 = lake.adapters.put(b"adapter")
    os.utime(lake.adapters.uri(sha256), (1, 1))
    assert lake.adapters.put(b"adapter") == sha256
    assert Path(lake.adapters.uri(sha256)).stat().st_mtime > 1e9


def test_a_flipped_bit_is_found_when_the_adapter_is_read(lake: Lake) -> None:
    sha256 = lake.adapters.put(b"adapter")
    path = Path(lake.adapters.uri(sha256))
    path.write_bytes(b"adaptes")
    with pytest.raises(AdapterIntegrityError, match=rf"{path}: its bytes have changed .*; delete"):
        lake.adapters.get(sha256)


def test_a_missing_adapter_is_named(lake: Lake) -> None:
    with pytest.raises(ObjectMissingError, match="no such file; restore it"):
        lake.adapters.get("0" * 64)


@pytest.mark.parametrize("name", ["", "abc", "../../etc/passwd", "G" * 64, "0" * 65])
def test_only_a_whole_sha256_names_an_adapter(lake: Lake, name: str) -> None:
    with pytest.raises(LakeError, match="expected 64 hexadecimal digits"):
        lake.adapters.get(name)


def test_an_adapter_that_a_clean_up_took_is_written_again() -> None:
    objects = Memory()
    store = AdapterStore(objects)
    sha256 = store.put(b"adapter")
    assert store.put(b"adapter") == sha256
    objects.files.clear()
    store.settle([sha256])
    assert store.get(sha256) == b"adapter"
    objects.files.clear()
    store.settle([sha256])
    assert objects.files == {}


def test_an_adapter_without_a_file_is_not_accepted() -> None:
    store = AdapterStore(Memory())
    store.require([store.put(b"adapter")])
    with pytest.raises(ObjectMissingError, match="put the adapter before its row"):
        store.require(["0" * 64])


def test_a_checkpoint_reads_back_whole(lake: Lake) -> None:
    files = {"hypernetwork.safetensors": b"tensors", "hypernetwork.json": b"{}"}
    lake.put_checkpoint("c" * 64, files)
    lake.put_checkpoint("c" * 64, files)
    assert lake.get_checkpoint("c" * 64) == files


def test_a_changed_checkpoint_is_refused(lake: Lake) -> None:
    lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"{}"})
    with pytest.raises(AdapterIntegrityError, match="its bytes have changed"):
        lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"[]"})
    path = Path(lake.uri) / "checkpoints" / ("c" * 64) / "hypernetwork.json"
    path.write_bytes(b"!!")
    with pytest.raises(AdapterIntegrityError, match=r"hypernetwork.json: its bytes have changed"):
        lake.get_checkpoint("c" * 64)


def test_a_half_written_checkpoint_does_not_exist(lake: Lake) -> None:
    lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"{}"})
    (Path(lake.uri) / "checkpoints" / ("c" * 64) / "SHA256SUMS.json").unlink()
    with pytest.raises(ObjectMissingError):
        lake.get_checkpoint("c" * 64)


@pytest.mark.parametrize("file", ["../x", "a/b", ".hidden", "SHA256SUMS.json", ""])
def test_a_checkpoint_file_has_a_plain_name(lake: Lake, file: str) -> None:
    with pytest.raises(LakeError, match="use plain names"):
        lake.put_checkpoint("c" * 64, {file: b""})
