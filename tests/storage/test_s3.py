"""A lake on S3, against a server on the loopback interface."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from storage.catalog import Catalog
from storage.errors import (
    AdapterIntegrityError,
    CatalogError,
    CatalogQueryError,
    LakeError,
    ObjectError,
    ObjectMissingError,
)
from storage.lake import Lake, open_lake
from storage.manifest import list_sources
from storage.remote import delta_options, file_system
from storage.s3_objects import S3ObjectStore
from tests.s3.servers import BUCKET, environment, moto

Commit = Callable[..., str]


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    with moto() as server:
        yield environment(server.endpoint)


@pytest.fixture(scope="module")
def s3_lake(options: dict[str, str]) -> Lake:
    return open_lake(f"s3://{BUCKET}/lake", create=True, storage_options=options)


@pytest.fixture
def objects(options: dict[str, str]) -> S3ObjectStore:
    return S3ObjectStore(f"s3://{BUCKET}/objects", file_system("s3://", options))


def test_units_commit_once_and_answer_sql(
    s3_lake: Lake, options: dict[str, str], rows: Any, commit: Commit
) -> None:
    adapters = [rows.adapter(s3_lake, "v", i) for i in range(2)]
    assert commit(s3_lake, adapters) == "committed"
    again = open_lake(s3_lake.uri, storage_options=options)
    assert commit(again, adapters) == "already"
    assert again.query("select count(*) as n from adapters_latest").to_pylist() == [{"n": 2}]
    assert again.adapters.get(adapters[0]["adapter_sha256"]) == b"v/0/"
    assert len(again.done_segments(rows.recipe_id)[rows.video_id("v")]) == 2
    assert again.publish_views() is None
    for outside in (f"s3://{BUCKET}/other.txt", "s3://other/x.txt", "/etc/passwd"):
        with pytest.raises(CatalogQueryError, match="Permission Error"):
            again.query(f"select * from read_text('{outside}')")


def test_the_slower_of_two_writers_notices(s3_lake: Lake, options: dict[str, str]) -> None:
    row = {"video_id": "v", "sequence": 1, "is_deleted": False}
    rival = open_lake(s3_lake.uri, storage_options=options)

    class Overtaken(Catalog):
        def _write(self, handle: Any, arrow: Any, properties: Any) -> None:  # type: ignore[override]
            if rival.catalog.committed("tombstones", "app") < 0:
                rival.append("tombstones", [row], transaction=("app", 0))
            Catalog._write(handle, arrow, properties)

    slow = Overtaken(f"{s3_lake.uri}/catalog", storage_options=delta_options(options))
    assert not slow.append("tombstones", [row], transaction=("app", 0))
    assert slow.read("tombstones").num_rows == 1


def test_a_file_is_created_once_and_reads_back(objects: S3ObjectStore) -> None:
    assert objects.create("a/b.bin", b"first")
    assert not objects.create("a/b.bin", b"second")
    assert objects.read("a/b.bin") == b"first"
    assert objects.exists("a/b.bin")
    assert not objects.exists("a/c.bin")
    objects.refresh("a/b.bin", b"first")
    assert list(objects.names("a")) == ["a/b.bin"]
    assert objects.uri("a/b.bin") == f"s3://{BUCKET}/objects/a/b.bin"
    objects.delete("a/b.bin")
    objects.delete("a/b.bin")
    assert list(objects.names("a")) == []
    with pytest.raises(ObjectMissingError, match=r"objects/a/b.bin: no such file; restore it"):
        objects.read("a/b.bin")


def test_a_large_file_is_looked_for_before_it_is_sent(objects: S3ObjectStore) -> None:
    large = bytes(9 * 2**20)
    assert objects.create("large.bin", large)
    assert not objects.create("large.bin", large)
    objects.delete("large.bin")


def test_a_checkpoint_and_a_run_are_published_once(s3_lake: Lake) -> None:
    s3_lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"{}"})
    s3_lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"{}"})
    assert s3_lake.get_checkpoint("c" * 64) == {"hypernetwork.json": b"{}"}
    with pytest.raises(AdapterIntegrityError):
        s3_lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"[]"})
    assert s3_lake.mark_published("run", {"a": 1})
    assert not s3_lake.mark_published("run", {"a": 2})


class Careless:
    """A file system whose store ignores If-None-Match."""

    def __init__(self, files: Any) -> None:
        self.files = files

    def pipe_file(self, path: str, data: bytes, mode: str, **settings: Any) -> None:
        self.files.pipe_file(path, data, mode="overwrite", **settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)


def test_a_store_that_ignores_conditions_is_not_written_to(options: dict[str, str]) -> None:
    files = Careless(file_system("s3://", options))
    objects = S3ObjectStore(f"s3://{BUCKET}/careless", files)
    with pytest.raises(LakeError, match="the store ignores conditional puts"):
        objects.create("a", b"1")
    guarded = Catalog(
        f"s3://{BUCKET}/careless/catalog",
        storage_options=delta_options(options),
        before_write=objects.require_conditional_create,
    )
    with pytest.raises(LakeError, match="the store ignores conditional puts"):
        guarded.append("tombstones", [])
    assert list(objects.names("")) == []


class Contested(Careless):
    """A file system whose store answers 409 as long as another writer is at it."""

    num_conflicts = 2

    def pipe_file(self, path: str, data: bytes, mode: str, **settings: Any) -> None:
        if self.num_conflicts:
            self.num_conflicts -= 1
            cause = OSError()
            cause.response = {"Error": {"Code": "ConditionalRequestConflict"}}  # type: ignore[attr-defined]
            raise OSError(22, "conflict") from cause
        self.files.pipe_file(path, data, mode=mode, **settings)


def test_a_conflict_is_tried_again_and_not_for_ever(options: dict[str, str]) -> None:
    files = Contested(file_system("s3://", options))
    objects = S3ObjectStore(f"s3://{BUCKET}/contested", files)
    assert objects.create("a", b"1")
    files.num_conflicts = 99
    with pytest.raises(ObjectError, match="another writer holds it; run again"):
        objects.create("b", b"1")


def test_a_missing_lake_or_bucket_is_named(options: dict[str, str]) -> None:
    with pytest.raises(LakeError, match="no lake here"):
        open_lake(f"s3://{BUCKET}/nowhere", storage_options=options)
    with pytest.raises((LakeError, CatalogError, ObjectError), match="no-such-bucket"):
        open_lake("s3://no-such-bucket/lake", create=True, storage_options=options)


def test_videos_on_s3_are_listed_with_their_etags(options: dict[str, str]) -> None:
    files = file_system("s3://", options)
    files.pipe_file(f"{BUCKET}/videos/a.mp4", b"0123456789")
    files.pipe_file(f"{BUCKET}/videos/m.jsonl", b'{"uri": "a.mp4"}\n{"uri": "gone.mp4"}\n')
    (video,) = list_sources(f"s3://{BUCKET}/videos", storage_options=options)
    assert (video.uri, video.size_bytes) == (f"s3://{BUCKET}/videos/a.mp4", 10)
    assert video.version_token is not None
    listed = list(list_sources(f"s3://{BUCKET}/videos/m.jsonl", storage_options=options))
    assert listed[0] == video
    assert listed[1].size_bytes is None


def test_settings_come_from_the_environment_and_are_overlaid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from environment")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    found = delta_options({"AWS_ACCESS_KEY_ID": "given"})
    assert found["AWS_ACCESS_KEY_ID"] == "given"
    assert found["AWS_REGION"] == "eu-west-1"
    assert (found["AWS_ENDPOINT_URL"], found["AWS_ALLOW_HTTP"]) == ("http://127.0.0.1:1", "true")
    assert found["AWS_CONDITIONAL_PUT"] == "etag"
    assert "AWS_ALLOW_HTTP" not in delta_options({"AWS_ENDPOINT_URL_S3": "https://s3.example"})
