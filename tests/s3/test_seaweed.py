"""What moto lets pass, against a real server: conditions, checksums, keys, large files."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from storage.errors import LakeError, ObjectError, StorageError
from storage.lake import open_lake
from storage.remote import file_system
from storage.s3_objects import S3ObjectStore
from tests.s3.faulty_proxy import faulty_proxy
from tests.s3.servers import (
    ACCESS_KEY,
    READER_KEY,
    READER_SECRET,
    SECRET_KEY,
    Server,
    environment,
    moto,
    seaweed,
)

pytestmark = pytest.mark.slow
MIB = 2**20


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """SeaweedFS in place of moto, for the shared fixtures too."""
    with seaweed() as running:
        yield running


def store(server: Server, root: str, **changed: str) -> S3ObjectStore:
    return S3ObjectStore(root, file_system(root, environment(server.endpoint, **changed)))


def test_of_many_writers_of_one_name_one_wins(server: Server, root: str) -> None:
    for size in (100, 9 * MIB):
        objects = store(server, f"{root}/{size}")
        objects.require_conditional_create()
        barrier, wins = threading.Barrier(4), []

        def write(number: int, size: int = size, objects: Any = objects) -> None:
            data = bytes([number]) * size
            barrier.wait()  # noqa: B023
            if objects.create("contested", data):
                wins.append(data)  # noqa: B023

        threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert objects.read("contested") == wins[0]


def test_a_large_file_goes_up_in_parts_once(server: Server, root: str) -> None:
    objects = store(server, root)
    large = bytes(range(256)) * (101 * MIB // 256)
    assert objects.create("large", large)
    assert not objects.create("large", large[::-1])
    assert not objects._create("large", large[::-1]), "the condition holds for parts too"
    assert objects.read("large") == large


def test_a_body_that_is_not_what_was_signed_is_refused(server: Server, root: str) -> None:
    files = file_system(root, environment(server.endpoint))
    with pytest.raises(OSError, match=r"(?i)digest|md5|checksum|match"):
        files.pipe_file(f"{root}/x", b"0123", ContentMD5="AAAAAAAAAAAAAAAAAAAAAA==")
    assert not files.exists(f"{root}/x")


def test_wrong_credentials_end_in_one_clear_line(server: Server, root: str) -> None:
    for changed in (
        {"AWS_SECRET_ACCESS_KEY": "wrong" + SECRET_KEY},
        {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWNKEY000000"},
    ):
        options = environment(server.endpoint, **changed)
        for create in (True, False):
            with pytest.raises(StorageError) as refused:
                open_lake(f"{root}/lake", create=create, storage_options=options)
            said = str(refused.value)
            assert "\n" not in said
            assert root in said
            assert SECRET_KEY not in said
            assert ACCESS_KEY not in said


def test_a_missing_bucket_is_named(server: Server) -> None:
    with pytest.raises(StorageError, match="s3://no-such-lake"):
        open_lake("s3://no-such-lake/x", storage_options=environment(server.endpoint))


def test_who_may_only_read_reads_and_is_told_so_when_writing(server: Server, root: str) -> None:
    open_lake(f"{root}/lake", create=True, storage_options=environment(server.endpoint))
    reader = environment(
        server.endpoint, AWS_ACCESS_KEY_ID=READER_KEY, AWS_SECRET_ACCESS_KEY=READER_SECRET
    )
    lake = open_lake(f"{root}/lake", storage_options=reader)
    assert lake.query("select count(*) as n from videos").to_pylist() == [{"n": 0}]
    with pytest.raises(ObjectError, match=r"(?i)cannot write it \(access denied") as refused:
        lake.append("tombstones", [{"video_id": "v", "sequence": 1, "is_deleted": False}])
    assert READER_SECRET not in str(refused.value)


def test_the_probe_accepts_a_careful_store_and_refuses_a_careless_one(
    server: Server, root: str
) -> None:
    store(server, root).require_conditional_create()
    # Without the header the signature would not fit on SeaweedFS; moto looks at none.
    stripped = frozenset({"if-none-match"})
    with moto() as other, faulty_proxy(other.endpoint, stripped=stripped) as proxy:
        options = environment(proxy.endpoint)
        with pytest.raises(LakeError, match="the store ignores conditional puts"):
            open_lake(f"{root}/lake", create=True, storage_options=options)
        assert file_system(root, options).find(root) == []
