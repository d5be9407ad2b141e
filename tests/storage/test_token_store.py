"""Files of visual tokens: a name tells all, one listing finds a video's, and bytes are checked."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import AdapterIntegrityError, LakeError, ObjectMissingError
from storage.identity import sha256_hex
from storage.object_store import LocalObjectStore
from storage.token_store import TokenFile, TokenStore, resolve_sight, sights

SIGHT, OTHER, VIDEO = (sha256_hex(name) for name in (b"sight", b"other", b"video"))

hashes = st.binary(max_size=4).map(sha256_hex)
times = st.integers(0, 2**62)


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path)


@given(sight_id=hashes, video_id=hashes, start_us=times, end_us=times, sha256=hashes)
def test_a_name_tells_what_the_file_is(
    sight_id: str, video_id: str, start_us: int, end_us: int, sha256: str
) -> None:
    file = TokenFile(
        sight_id=sight_id, video_id=video_id, start_us=start_us, end_us=end_us, sha256=sha256
    )
    assert TokenFile.parse(file.name) == file
    assert TokenFile.parse(f"{file.name}.copy") is None
    assert TokenFile.parse(f"../{file.name}") is None


def test_what_was_put_is_found_by_its_span_under_its_own_sight_alone(
    objects: LocalObjectStore,
) -> None:
    store = TokenStore(objects, SIGHT)
    for start_us in (0, 30):
        store.put(VIDEO, (start_us, start_us + 30), f"at {start_us}".encode())
    found = store.find(VIDEO)
    assert found.keys() == {(0, 30), (30, 60)}
    assert store.get(found[30, 60]) == b"at 30"
    assert store.find(OTHER) == TokenStore(objects, OTHER).find(VIDEO) == {}


def test_two_machines_with_other_last_bits_leave_two_whole_files_and_one_counts(
    objects: LocalObjectStore,
) -> None:
    store = TokenStore(objects, SIGHT)
    written = {store.put(VIDEO, (0, 30), data).sha256: data for data in (b"one", b"two", b"one")}
    assert len(list(objects.names("visual_tokens"))) == 2
    (file,) = store.find(VIDEO).values()
    assert store.get(file) == written[min(written)]


def test_changed_bytes_are_refused_until_the_file_is_removed(
    objects: LocalObjectStore, tmp_path: Path
) -> None:
    store = TokenStore(objects, SIGHT)
    file = store.put(VIDEO, (0, 30), b"good")
    (tmp_path / file.name).write_bytes(b"gone bad")
    with pytest.raises(AdapterIntegrityError, match="its bytes have changed"):
        store.get(file)
    store.remove(file)
    with pytest.raises(ObjectMissingError):
        store.get(file)
    assert store.get(store.put(VIDEO, (0, 30), b"good")) == b"good"


@pytest.mark.parametrize("name", ["", "..", "../../etc", VIDEO.upper(), VIDEO + "/.."])
def test_only_ids_become_paths(objects: LocalObjectStore, name: str) -> None:
    with pytest.raises(LakeError, match="64 hexadecimal digits"):
        TokenStore(objects, name)
    with pytest.raises(LakeError, match="64 hexadecimal digits"):
        TokenStore(objects, SIGHT).put(name, (0, 30), b"data")


def test_a_sight_is_meant_by_its_first_digits_and_an_unknown_one_lists_what_there_is(
    objects: LocalObjectStore,
) -> None:
    TokenStore(objects, SIGHT).describe({"model": "small"})
    assert sights(objects) == {SIGHT: {"model": "small"}}
    assert resolve_sight(objects, SIGHT[:9], found=[]) == {SIGHT}
    assert resolve_sight(objects, OTHER[:9], found=[OTHER]) == {OTHER}
    assert resolve_sight(objects, "all", found=[OTHER]) == {SIGHT, OTHER}
    for text in ("", "x"):
        with pytest.raises(LakeError, match=rf"{SIGHT[:12]} \(small\).*give more digits, or all"):
            resolve_sight(objects, text, found=[OTHER])
