"""Many videos by name at once: one scan of the catalog, whatever the number of names.

The rules are those of `lookups.resolve_video`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.catalog import Catalog
from storage.lookups import deleted_videos

_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}")
_SHOWN: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """What a name means."""

    video_id: str | None
    """None where nothing fits, or too much."""
    is_ambiguous: bool = False
    is_deleted: bool = False
    detail: str = ""
    """What is wrong where there is no video."""


def resolve_videos(catalog: Catalog, names: Iterable[str]) -> dict[str, Named]:
    """Return what each name means: an id or its first digits, a URI, a file name, a given id."""
    wanted = set(names)
    absolute = {text: str(Path(text).expanduser().absolute()) for text in wanted}
    asked: dict[str, set[str]] = {}
    for text, path in absolute.items():
        for form in (text, path):
            asked.setdefault(form, set()).add(text)
    fits = _scan(catalog, wanted, asked)
    deleted = deleted_videos(catalog)
    return {text: _named(text, absolute[text], fits.get(text, {}), deleted) for text in wanted}


def _scan(
    catalog: Catalog, wanted: set[str], asked: dict[str, set[str]]
) -> dict[str, dict[str, str]]:
    """Find, for each name, the fitting URIs or ids with their video, the last row of each."""
    lengths = sorted({len(text) for text in wanted if _PREFIX.fullmatch(text)})
    depth = max((text.count("/") for text in wanted), default=0) + 1
    rows = catalog.read("videos", columns=["created_at", "uri", "video_id", "given_id"])
    fits: dict[str, dict[str, str]] = {}
    for batch in rows.sort_by([("created_at", "ascending")]).to_batches():
        columns = [batch[name].to_pylist() for name in ("uri", "video_id", "given_id")]
        for uri, video_id, given_id in zip(*columns, strict=True):
            for text in asked.get(uri, ()):
                fits.setdefault(text, {})[uri] = video_id
            for text in {given_id, *_endings(uri, depth)} & wanted:
                fits.setdefault(text, {})[uri] = video_id
            for text in {video_id[:length] for length in lengths} & wanted:
                fits.setdefault(text, {})[video_id] = video_id
    return fits


def _endings(uri: str, depth: int) -> list[str]:
    """List what a URI ends with after each of its last slashes."""
    parts = uri.rsplit("/", depth)
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _named(text: str, path: str, fits: dict[str, str], deleted: set[str]) -> Named:
    exact = fits.get(text) or fits.get(path)
    found = {exact} if exact else set(fits.values())
    if len(found) > 1:
        ids = ", ".join(sorted(video_id[:12] for video_id in found)[:_SHOWN])
        said = f"video {text!r}: {len(found)} videos fit ({ids}); give more digits or the whole URI"
        return Named(video_id=None, is_ambiguous=True, detail=said)
    if not found:
        said = f"video {text!r}: not in the catalog; internalize it first (--internalize-missing)"
        return Named(video_id=None, detail=said)
    if found & deleted:
        return Named(video_id=None, is_deleted=True, detail=f"video {text!r}: it was deleted")
    return Named(video_id=found.pop())
