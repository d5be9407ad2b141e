"""A corpus as a stream of sources: a directory, a glob, one video file, or a manifest.

A manifest is a Parquet, JSONL or CSV file with a column `uri` (see manifest_file). Relative URIs
are relative to the manifest. No video is read here: a source is a URI, a size and a version token.
A manifest that gives both spares a look at each file; remote files are looked at by a few threads.
Nothing holds the whole listing, and its order means nothing: plans sort. URIs that carry
credentials are refused.
"""

import glob
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # it has no types

from storage.errors import CredentialsError, ManifestError, reason_of
from storage.identity import source_id
from storage.manifest_file import MANIFEST_SUFFIXES, ManifestRow, read_manifest
from storage.remote import file_system, is_remote, require_credentials
from storage.remote_file import version_token
from storage.remote_listing import list_files

VIDEO_SUFFIXES: Final = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".ogv", ".ts", ".webm", ".wmv"}
)

_SECRET: Final = re.compile(
    r"x-amz-.*|x-goog-.*|awsaccesskeyid|googleaccessid|signature|sig|policy|credential|"
    r"key-pair-id|api_?key|access_?key.*|auth.*|.*token.*|.*secret.*|.*passw.*",
    re.IGNORECASE,
)

# Looks at remote files that are under way at once, and how far they may run ahead of the reader.
_LOOKERS: Final = 16
_AHEAD: Final = 256

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
    duration_us: int | None = None
    """Length as the manifest gives it; for planning only, and no part of a plan."""
    corpus: str | None = None
    """The corpus that listed it before, where it comes from the catalog."""

    @property
    def source_id(self) -> str:
        """The sha256 of the URI."""
        return source_id(self.uri)


def list_sources(corpus: str, *, storage_options: Options = None) -> Iterator[Source]:
    """Stream the sources of a corpus, in any order.

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
        return _some(_local_sources(_walk(path)), f"{path}: {empty}")
    if path.is_file():
        return _file_sources(path, storage_options)
    if glob.has_magic(corpus):
        # Not Path.glob: it takes no absolute pattern.
        found = (Path(name) for name in glob.iglob(str(path), recursive=True))  # noqa: PTH207
        videos = (file for file in found if _is_video(file.name) and file.is_file())
        return _some(_local_sources(videos), f"{corpus}: the glob meets no video")
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
    videos = (item for item in list_files(corpus, files) if _is_video(item[0]))
    sources = _listable((_seen(uri, info) for uri, info in videos), corpus)
    return _some(sources, f"{corpus}: no video there")


def _listable(sources: Iterator[Source], where: str) -> Iterator[Source]:
    try:
        yield from sources
    except (OSError, BotoCoreError) as error:
        said = reason_of(error)
        raise ManifestError(f"{where}: cannot be listed ({said}); check its rights") from error


def _manifest_sources(
    rows: Iterable[ManifestRow], *, base: str, options: Options
) -> Iterator[Source]:
    return look_at((_listed(row, base) for row in rows), only=_is_unseen, storage_options=options)


def _listed(row: ManifestRow, base: str) -> Source:
    refuse_credentials(row.uri)
    uri = _local(row.uri)
    if not is_remote(uri):
        uri = f"{base}/{uri}" if is_remote(base) else os.path.normpath(Path(base) / uri)
    is_told = row.size_bytes is not None and row.version_token is not None
    return Source(
        uri=uri,
        size_bytes=row.size_bytes if is_told else None,
        version_token=row.version_token if is_told else None,
        given_id=row.given_id,
        metadata=row.metadata,
        duration_us=row.duration_us,
    )


def _is_unseen(source: Source) -> bool:
    return source.version_token is None


def look_at(
    sources: Iterable[Source],
    *,
    only: Callable[[Source], bool] = lambda _: True,
    storage_options: Options = None,
) -> Iterator[Source]:
    """Yield sources in their order, with the size and version that their files have now.

    Args:
        sources: Where the files are; one that is gone is yielded without size and version.
        only: Which to look at; others are yielded as they are.
        storage_options: AWS_* settings for S3, over those of the environment.
    """
    waiting: deque[Source | Future[Source]] = deque()
    with ThreadPoolExecutor(_LOOKERS) as lookers:
        for source in sources:
            if not only(source):
                waiting.append(source)
            elif is_remote(source.uri):
                waiting.append(lookers.submit(_look, source, storage_options))
            else:
                waiting.append(_look(source, storage_options))
            # A remote file is waited for only when enough others are under way.
            while waiting and (isinstance(waiting[0], Source) or len(waiting) > _AHEAD):
                yield _looked(waiting.popleft())
        while waiting:
            yield _looked(waiting.popleft())


def _looked(item: Source | Future[Source]) -> Source:
    return item if isinstance(item, Source) else item.result()


def _look(source: Source, options: Options) -> Source:
    try:
        if not is_remote(source.uri):
            seen = _local_source(Path(source.uri))
        else:
            seen = _seen(source.uri, file_system(source.uri, options).info(source.uri))
    except (OSError, BotoCoreError):
        # A manifest may list what is gone; reading it becomes a reject with its reason.
        seen = Source(uri=source.uri)
    return replace(source, size_bytes=seen.size_bytes, version_token=seen.version_token)


def _local_sources(paths: Iterable[Path]) -> Iterator[Source]:
    return look_at(Source(uri=str(path)) for path in paths)


def _local_source(path: Path) -> Source:
    status = path.stat()
    token = str(status.st_mtime_ns)
    return Source(uri=str(path), size_bytes=status.st_size, version_token=token)


def _seen(uri: str, info: Mapping[str, Any]) -> Source:
    size_bytes = next((info[name] for name in ("size", "Size") if name in info), None)
    return Source(uri=uri, size_bytes=size_bytes, version_token=version_token(info))


def _walk(directory: Path) -> Iterator[Path]:
    folders = [directory]
    while folders:
        folder = folders.pop()
        try:
            # Not Path.iterdir: it holds the names of a folder, of which there may be a million.
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not entry.name.startswith("."):
                            folders.append(Path(entry.path))
                    elif _is_video(entry.name) and entry.is_file():
                        yield Path(entry.path)
        except OSError as error:
            raise ManifestError(
                f"{folder}: cannot be listed ({error.strerror}); check its rights"
            ) from error


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
