"""What lies below a remote prefix or fits a remote glob, page by page.

S3 is asked for a thousand names at a time, through s3fs and its retries: its own `find` holds the
whole listing. Other file systems have no pages and are listed whole.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import fsspec
from fsspec.utils import glob_translate

_S3: Final = ("s3", "s3a")
_MAGIC: Final = re.compile(r"[*?\[]")


def list_files(
    uri: str, files: fsspec.AbstractFileSystem
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (URI, facts) of every file below a prefix, or that fits a glob; one file is itself.

    Raises:
        OSError: it cannot be listed.
    """
    # Only a star makes a glob: brackets and question marks stand in many an object's name.
    is_glob = "*" in uri
    if uri.partition("://")[0] in _S3:
        yield from _s3_files(uri, files, is_glob=is_glob)
        return
    found = files.glob(uri, detail=True) if is_glob else files.find(uri, detail=True)
    for name, info in sorted(found.items()):
        yield files.unstrip_protocol(name), info


def _s3_files(
    uri: str, files: fsspec.AbstractFileSystem, *, is_glob: bool
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    parts = urlsplit(uri, allow_fragments=False)
    scheme, place = parts.scheme, parts.netloc
    key = uri.partition(f"{scheme}://{place}")[2].lstrip("/")
    prefix, fits = key, None
    if is_glob:
        prefix, fits = _MAGIC.split(key)[0], re.compile(glob_translate(key))
    for info in _pages(files, place, prefix):
        name = info["Key"]
        is_below = name == key or name.startswith(f"{key.rstrip('/')}/") or not key
        if fits.match(name) if fits else is_below:
            yield f"{scheme}://{place}/{name}", info


def _pages(
    files: fsspec.AbstractFileSystem, place: str, prefix: str
) -> Iterator[Mapping[str, Any]]:
    going_on: dict[str, str] = {}
    while True:
        page = files.call_s3("list_objects_v2", Bucket=place, Prefix=prefix, **going_on)
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        going_on = {"ContinuationToken": page["NextContinuationToken"]}
