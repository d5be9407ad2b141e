"""A corpus is listed without being read, and without credentials."""

import itertools
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import CredentialsError, ManifestError
from storage.manifest import Source, list_sources, look_at, refuse_credentials


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MKV", "sub/deep/c.webm", "notes.txt", ".hidden.mp4", ".cache/d.mp4"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0123456789")
    return tmp_path / "corpus"


def names(corpus: str | Path) -> list[str]:
    """List a corpus by name; what is listed has no order."""
    return sorted(Path(source.uri).name for source in list_sources(str(corpus)))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    else:
        columns = list(rows[0])
        lines = [columns, *([str(row[name]) for name in columns] for row in rows)]
        path.write_text("\ufeff" + "".join(",".join(line) + "\r\n" for line in lines))
    return path


def test_a_directory_is_searched_to_the_bottom(corpus: Path) -> None:
    assert names(corpus) == ["a.MKV", "b.mp4", "c.webm"]


def test_a_source_is_a_path_a_size_and_a_version(corpus: Path) -> None:
    video = corpus / "b.mp4"
    os.utime(video, ns=(1, 123456789))
    expected = Source(uri=str(video), size_bytes=10, version_token="123456789")
    assert list(list_sources(str(video))) == [expected]
    assert list(list_sources(f"file://{video}")) == [expected]
    assert len(expected.source_id) == 64


def test_a_relative_path_becomes_absolute(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus.parent)
    assert str(corpus / "a.MKV") in {source.uri for source in list_sources("corpus")}


def test_a_glob_meets_the_videos_that_fit(corpus: Path) -> None:
    assert names(corpus / "*") == ["a.MKV", "b.mp4"]
    assert names(corpus / "**" / "*.webm") == ["c.webm"]


def test_a_video_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a[1].mp4").write_bytes(b"x")
    assert names(tmp_path / "a[1].mp4") == ["a[1].mp4"]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_a_manifest_lists_videos_with_ids_and_other_columns(corpus: Path, suffix: str) -> None:
    rows = [
        {"uri": "b.mp4", "id": 7, "title": "B"},
        {"uri": str(corpus / "a.MKV"), "id": 8, "title": "A"},
        {"uri": "sub/../gone.mp4", "id": 9, "title": "gone"},
    ]
    found = list(list_sources(str(write(corpus / f"manifest{suffix}", rows))))
    uris = [str(corpus / name) for name in ("b.mp4", "a.MKV", "gone.mp4")]
    assert [source.uri for source in found] == uris
    assert [source.given_id for source in found] == ["7", "8", "9"]
    assert [source.metadata for source in found] == [
        f'{{"title": "{title}"}}' for title in ("B", "A", "gone")
    ]
    assert [source.size_bytes for source in found] == [10, 10, None]
    assert found[2].version_token is None


def test_a_manifest_of_uris_alone_has_no_ids(corpus: Path) -> None:
    (found,) = list_sources(str(write(corpus / "m.csv", [{"uri": "b.mp4", "id": ""}])))
    assert (found.given_id, found.metadata) == (None, None)


def test_a_manifest_is_streamed(corpus: Path) -> None:
    path = corpus / "m.jsonl"
    path.write_text('{"uri": "b.mp4"}\n' * 3 + "this line is never reached\n")
    stream = list_sources(str(path))
    assert isinstance(stream, Iterator)
    assert [next(stream).size_bytes for _ in range(3)] == [10, 10, 10]
    with pytest.raises(ManifestError, match=r"m.jsonl: not a readable manifest"):
        next(stream)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", b"path,title\na.mp4,A\n", r"row 1 has no column uri \(found: path, title\)"),
        ("m.csv", b"", r"row 1 has no column uri \(found: nothing\)"),
        ("m.csv", b"uri\n", "the manifest lists no video"),
        ("m.csv", b"uri,id\n,7\n", "the uri of row 1 is empty"),
        ("m.jsonl", b'{"path": "a.mp4"}\n', r"row 1 has no column uri \(found: path\)"),
        ("m.jsonl", b"[1]\n", r"row 1 has no column uri \(found: list\)"),
        ("m.jsonl", b'{"uri": 5}\n', "the uri of row 1 is empty"),
        ("m.jsonl", b"", "the manifest lists no video"),
        ("m.jsonl", b"\xff\xfe", "not a readable manifest"),
        ("m.parquet", b"PAR1", "not a readable manifest"),
        ("notes.txt", b"hello", r"neither a video nor a manifest \(suffix .txt"),
        ("LICENSE", b"hello", r"neither a video nor a manifest \(suffix missing"),
    ],
)
def test_a_manifest_of_the_wrong_form_is_named(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=f"{name}: .*{said}"):
        list_sources(str(tmp_path / name))


def test_a_parquet_manifest_without_the_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", [{"path": "a.mp4"}])
    with pytest.raises(ManifestError, match=r"no column uri \(found: path\)"):
        list_sources(str(path))


def test_a_corpus_without_videos_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nowhere: no such file or directory; check the path"):
        list_sources(str(tmp_path / "nowhere"))
    with pytest.raises(ManifestError, match="the directory is empty; give a corpus with videos"):
        list_sources(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(ManifestError, match=r"no video in this directory; .* \(\.3gp"):
        list_sources(str(tmp_path))
    with pytest.raises(ManifestError, match="the glob meets no video"):
        list_sources(str(tmp_path / "*.mp4"))


SIGNED = [
    "https://host/v.mp4?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET",
    "https://host/v.mp4?x=1&Signature=SECRET",
    "https://user:SECRET@host/v.mp4",
    "s3://SECRET:SECRET@bucket/v.mp4",
    "https://host/v.mp4?access_token=SECRET",
    "https://account.blob.example/v.mp4?sv=1&sig=SECRET",
    "ftp://user:SECRET@host/v.mp4",
]


@pytest.mark.parametrize("uri", SIGNED)
def test_a_uri_with_credentials_is_refused_and_its_secret_repeated_nowhere(
    tmp_path: Path, uri: str
) -> None:
    with pytest.raises(CredentialsError, match="the URI carries credentials") as refused:
        list_sources(uri)
    assert "SECRET" not in str(refused.value)
    manifest = write(tmp_path / "m.jsonl", [{"uri": uri}])
    with pytest.raises(CredentialsError) as refused:
        list(list_sources(str(manifest)))
    assert "SECRET" not in str(refused.value)


@pytest.mark.parametrize("uri", ["/a@b/v.mp4", "s3://bucket/a@b.mp4", "https://h/v.mp4?page=1"])
def test_a_plain_uri_is_not_taken_for_a_secret(uri: str) -> None:
    refuse_credentials(uri)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    files = fsspec.filesystem("memory")
    for name in ("b.mp4", "a.mkv", "notes.txt", "sub/c.mp4"):
        files.pipe_file(f"/corpus/{name}", b"0123456789")
    yield files
    files.rm("/corpus", recursive=True)


def test_a_remote_corpus_is_listed_with_sizes_and_versions(
    memory: fsspec.AbstractFileSystem,
) -> None:
    found = list(list_sources("memory://corpus"))
    assert [source.uri for source in found] == [
        "memory:///corpus/a.mkv",
        "memory:///corpus/b.mp4",
        "memory:///corpus/sub/c.mp4",
    ]
    assert {source.size_bytes for source in found} == {10}
    assert all(source.version_token for source in found)
    assert names("memory://corpus/*.mp4") == ["b.mp4"]
    with pytest.raises(ManifestError, match="memory://nowhere: no video there"):
        list_sources("memory://nowhere")


def test_a_remote_manifest_lists_what_lies_beside_it(memory: fsspec.AbstractFileSystem) -> None:
    lines = '{"uri": "b.mp4"}\n{"uri": "gone.mp4"}\n{"uri": "memory://corpus/a.mkv"}\n'
    memory.pipe_file("/corpus/m.jsonl", lines.encode())
    found = list(list_sources("memory://corpus/m.jsonl"))
    uris = ["memory://corpus/b.mp4", "memory://corpus/gone.mp4", "memory://corpus/a.mkv"]
    assert [source.uri for source in found] == uris
    assert [source.size_bytes for source in found] == [10, None, 10]


def test_a_manifest_that_gives_size_and_version_spares_the_look(corpus: Path) -> None:
    rows = [
        {"uri": "s3://team/a.mp4", "size_bytes": 7, "etag": "abc", "duration": 12.5},
        {"uri": "s3://team/b.mp4", "size_bytes": 8, "version_token": "t", "duration": 0},
        {"uri": "b.mp4", "size_bytes": 9, "version_token": "42", "duration": 1},
    ]
    path = corpus / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(list_sources(str(path)))
    seen = [(source.size_bytes, source.version_token, source.duration_us) for source in found]
    assert seen == [(7, '"abc"', 12_500_000), (8, "t", 0), (9, "42", 1_000_000)]
    assert found[0].metadata == '{"duration": 12.5}'


def test_a_size_without_a_version_is_not_trusted(corpus: Path) -> None:
    path = write(corpus / "m.csv", [{"uri": "b.mp4", "size_bytes": 7, "etag": ""}])
    assert next(list_sources(str(path))).size_bytes == 10


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_durations_are_read_from_every_form(corpus: Path, suffix: str) -> None:
    path = write(corpus / f"m{suffix}", [{"uri": "b.mp4", "duration": 1.25}])
    assert next(list_sources(str(path))).duration_us == 1_250_000


@pytest.mark.parametrize("value", ['"long"', "-1", "[1]", '"inf"'])
def test_a_duration_that_is_none_is_named_with_its_row(corpus: Path, value: str) -> None:
    path = corpus / "m.jsonl"
    path.write_text(f'{{"uri": "b.mp4"}}\n{{"uri": "b.mp4", "duration": {value}}}\n')
    with pytest.raises(ManifestError, match=r"m.jsonl: row 2: duration is .*, expected a number"):
        list(list_sources(str(path)))


@pytest.mark.parametrize("value", ["", "nan"])
def test_a_duration_that_is_left_open_is_unknown(corpus: Path, value: str) -> None:
    path = write(corpus / "m.csv", [{"uri": "b.mp4", "duration": value}])
    assert next(list_sources(str(path))).duration_us is None


class PagedStore:
    """Stands for s3fs over a place of which one page holds three names."""

    def __init__(self, num: int) -> None:
        keys = sorted(
            [*(f"videos/{i:02d}.mp4" for i in range(num)), "videos.mp4", "videos/x/y.mkv"]
        )
        self.keys = keys
        self.num_pages = 0

    def call_s3(self, method: str, *, Bucket: str, Prefix: str, **more: str) -> dict[str, Any]:
        assert (method, Bucket) == ("list_objects_v2", "team")
        self.num_pages += 1
        keys = [key for key in self.keys if key.startswith(Prefix)]
        start = int(more.get("ContinuationToken", 0))
        page = [{"Key": key, "Size": 1, "ETag": '"e"'} for key in keys[start : start + 3]]
        is_more = start + 3 < len(keys)
        going_on = {"NextContinuationToken": str(start + 3)} if is_more else {}
        return {"Contents": page, "IsTruncated": is_more, **going_on}


def test_an_s3_prefix_is_listed_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    store = PagedStore(10)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setattr("storage.manifest.file_system", lambda *_: store)
    stream = list_sources("s3://team/videos/")
    assert store.num_pages == 1
    found = list(stream)
    assert store.num_pages == 4
    assert len(found) == 11
    assert found[0] == Source(uri="s3://team/videos/00.mp4", size_bytes=1, version_token='"e"')
    assert names("s3://team/videos.mp4") == ["videos.mp4"]
    assert names("s3://team/videos/0[0-3]*") == ["00.mp4", "01.mp4", "02.mp4", "03.mp4"]
    assert names("s3://team/**/*.mkv") == ["y.mkv"]
    assert len(names("s3://team")) == 12


def test_remote_files_are_looked_at_side_by_side_and_stay_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = threading.Barrier(4)

    class Slow:
        def info(self, uri: str) -> dict[str, Any]:
            together.wait(timeout=30)
            return {"size": int(uri[-1]), "ETag": "e"}

    monkeypatch.setattr("storage.manifest.file_system", lambda *_: Slow())
    listed = [Source(uri=f"s3://team/{i}") for i in range(8)]
    seen = list(look_at(listed))
    assert [source.size_bytes for source in seen] == list(range(8))


def test_looking_runs_only_so_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    class Quick:
        def info(self, _uri: str) -> dict[str, Any]:
            return {"size": 1, "ETag": "e"}

    monkeypatch.setattr("storage.manifest.file_system", lambda *_: Quick())
    taken = itertools.count()
    stream = look_at(Source(uri=f"s3://team/{next(taken)}") for _ in range(10_000))
    next(stream)
    assert next(taken) < 300
    stream.close()
