"""A corpus as a stream of sources: a directory, a glob, one video file, or a manifest.

A manifest is a Parquet, JSONL or CSV file with a column `uri` and, where it likes, `id`; its other
columns are kept as JSON text. Relative URIs are relative to the manifest. No video is read here:
a source is a URI, a size and a version token. URIs that carry credentials are refused.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # it has no types

from storage.errors import CredentialsError, ManifestError, reason_of
from storage.identity import source_id
from storage.manifest_file import MANIFEST_SUFFIXES, ManifestRow, read_manifest
from storage.remote import file_system, is_remote, require_credentials

VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".ogv", ".ts", ".webm", ".wmv"}
)

_SECRET: Final = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|sig|policy|credential|"
    r"key-pair-id|api_?key|access_?key.*|auth.*|.*token.*|.*secret.*|.*passw.*",
    re.IGNORECASE,
)

Options = Mapping[str, str] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file that a corpus lists."""

    uri: str
    """Absolute path, or the URI of a remote file."""
    size_bytes: int | None = None
    """None where the file could not be seen; reading it will tell why."""
    version_token: str | None = None
    """Opaque: the etag, or the modification time; None where the file could not be seen."""
    given_id: str | None = None
    """The manifest's own id of the video."""
    metadata: str | None = None
    """The manifest's other columns, a JSON object."""

    @property
    def source_id(self) -> str:
        """The sha256 of the URI."""
        return source_id(self.uri)


def list_sources(corpus: str, *, storage_options: Options = None) -> Iterator[Source]:
    """Stream the sources of a corpus in a stable order.

    Args:
        corpus: A directory (searched to the bottom), a glob, a video file, or a manifest.
        storage_options: AWS_* settings for S3, over those of the environment.

    Raises:
        ManifestError: the corpus is missing or lists no video; raised before the first source.
        CredentialsError: a URI carries credentials.
    """
    refuse_credentials(corpus)
    if is_remote(corpus):
        require_credentials(corpus, storage_options)
        return _remote_sources(corpus, storage_options)
    path = Path(_local(corpus)).expanduser().absolute()
    if path.is_dir():
        empty = "no video in this directory" if any(path.iterdir()) else "the directory is empty"
        return _some(map(_local_source, _walk(path)), f"{path}: {empty}")
    if path.is_file():
        return _file_sources(path, storage_options)
    if glob.has_magic(corpus):
        # Not Path.glob: it takes no absolute pattern.
        found = (Path(name) for name in sorted(glob.iglob(str(path), recursive=True)))  # noqa: PTH207
        videos = (file for file in found if _is_video(file.name) and file.is_file())
        return _some(map(_local_source, videos), f"{corpus}: the glob meets no video")
    raise ManifestError(f"{corpus}: no such file or directory; check the path")


def refuse_credentials(uri: str) -> None:
    """Raise CredentialsError, which repeats no secret, where a URI carries credentials."""
    if not is_remote(uri):
        return
    parts = urlsplit(uri)
    told = parse_qsl(f"{parts.query}&{parts.fragment}", keep_blank_values=True)
    # A secret may hold a slash, which ends the place where URLs keep a password.
    is_login = re.match(r"[^/@:\[]*:(?!\d*(/|$))|[^/]*@", uri.partition("://")[2])
    if is_login or any(_SECRET.fullmatch(name) for name, _ in told):
        shown = f"{parts.scheme}://..." if is_login else uri.partition("?")[0].partition("#")[0]
        raise CredentialsError(
            f"{shown}: the URI carries credentials; give it without them and put them in the "
            "environment"
        )


def _file_sources(path: Path, options: Options) -> Iterator[Source]:
    if path.suffix.lower() in MANIFEST_SUFFIXES:
        rows = read_manifest(str(path))
        sources = _manifest_sources(rows, base=str(path.parent), options=options)
        return _some(sources, f"{path}: the manifest lists no video")
    if _is_video(path.name):
        return iter([_local_source(path)])
    raise ManifestError(
        f"{path}: neither a video nor a manifest (suffix {path.suffix or 'missing'}, expected "
        ".parquet, .jsonl, .csv or a video's); rename it, or list it in a manifest"
    )


def _remote_sources(corpus: str, options: Options) -> Iterator[Source]:
    files = file_system(corpus, options)
    if Path(urlsplit(corpus).path).suffix.lower() in MANIFEST_SUFFIXES:
        rows = read_manifest(corpus, files)
        sources = _manifest_sources(rows, base=corpus.rpartition("/")[0], options=options)
        return _some(sources, f"{corpus}: the manifest lists no video")
    try:
        found = (
            files.glob(corpus, detail=True) if "*" in corpus else files.find(corpus, detail=True)
        )
    except (OSError, BotoCoreError) as error:
        said = reason_of(error)
        raise ManifestError(f"{corpus}: cannot be listed ({said}); check its rights") from error
    videos = ((name, info) for name, info in sorted(found.items()) if _is_video(name))
    sources = (_seen(files.unstrip_protocol(name), info) for name, info in videos)
    return _some(sources, f"{corpus}: no video there")


def _manifest_sources(
    rows: Iterable[ManifestRow], *, base: str, options: Options
) -> Iterator[Source]:
    for row in rows:
        refuse_credentials(row.uri)
        uri = _local(row.uri)
        if not is_remote(uri):
            uri = f"{base}/{uri}" if is_remote(base) else os.path.normpath(Path(base) / uri)
        seen = _look_at(uri, options)
        yield Source(
            uri=uri,
            size_bytes=seen.size_bytes,
            version_token=seen.version_token,
            given_id=row.given_id,
            metadata=row.metadata,
        )


def _look_at(uri: str, options: Options) -> Source:
    try:
        if not is_remote(uri):
            return _local_source(Path(uri))
        return _seen(uri, file_system(uri, options).info(uri))
    except (OSError, BotoCoreError):
        # A manifest may list what is gone; reading it becomes a reject with its reason.
        return Source(uri=uri)


def _local_source(path: Path) -> Source:
    status = path.stat()
    token = str(status.st_mtime_ns)
    return Source(uri=str(path), size_bytes=status.st_size, version_token=token)


def _seen(uri: str, info: Mapping[str, Any]) -> Source:
    names = ("ETag", "etag", "LastModified", "mtime", "created")
    token = next((str(info[name]) for name in names if info.get(name)), None)
    return Source(uri=uri, size_bytes=info.get("size"), version_token=token)


def _walk(directory: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(directory):
        folders.sort()
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in sorted(names):
            path = Path(folder) / name
            if _is_video(name) and path.is_file():
                yield path


def _some(sources: Iterator[Source], none: str) -> Iterator[Source]:
    first = next(sources, None)
    if first is None:
        suffixes = " ".join(sorted(VIDEO_SUFFIXES))
        raise ManifestError(f"{none}; give a corpus with videos ({suffixes})")
    return chain([first], sources)


def _is_video(name: str) -> bool:
    base = name.rpartition("/")[2]
    return Path(base).suffix.lower() in VIDEO_SUFFIXES and not base.startswith(".")


def _local(uri: str) -> str:
    return unquote(urlsplit(uri).path) if uri.startswith("file://") else uri
