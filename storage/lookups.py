"""What the pipeline asks of the catalog, as functions with parameters instead of SQL text."""

import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from storage.catalog import Catalog
from storage.errors import CatalogError, VideoUnknownError
from storage.manifest import Source
from storage.schemas import Row

Span = tuple[int, int]

_UNIT: Final = ["run_id", "shard", "unit"]
_OF_ADAPTER: Final = ("video_id", "adapter_key", "start_us", "adapter_sha256")
_PREFIX: Final = re.compile(r"[0-9a-f]{4,64}")
_NEAR: Final = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownVideo:
    """What the catalog knows of an unchanged file."""

    video_id: str
    duration_us: int | None
    """Duration under the recipe asked for; None where that recipe has not met the video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoFacts:
    """What some recipe found out on opening a video; see the table `videos`."""

    duration_us: int
    origin_us: int | None
    width_px: int | None
    height_px: int | None
    fps: float | None
    codec: str | None
    container: str | None


def done_segments(
    catalog: Catalog,
    recipe_id: str,
    video_ids: Collection[str] | None = None,
    *,
    retried: tuple[str, Collection[str]] | None = None,
) -> dict[str, set[Span]]:
    """Return the spans of each video that need no more work under a recipe.

    Only closed units count: what a dead run left half-committed is done again, and its adapters
    are then taken over by `commit_unit`.

    Args:
        catalog: Where to look.
        recipe_id: The recipe.
        video_ids: Only these videos.
        retried: A run_id and reasons: for that run what others rejected for these reasons is not
            done. Its own rejects are, so that every attempt of it finds the same.
    """
    where = (pc.field("recipe_id") == recipe_id) & pc.field("is_done")
    if video_ids is not None:
        where = where & _is_in("video_id", video_ids)
    if retried is not None:
        run_id, reasons = retried
        is_ours = pc.field("run_id") == run_id
        where = where & (is_ours | (pc.field("outcome") == "adapter") | ~_is_in("reason", reasons))
    columns = [*_UNIT, "video_id", "start_us", "end_us"]
    rows = catalog.read("segments", columns=columns, where=where)
    closed = catalog.read("runs", columns=_UNIT, where=pc.field("event") == "unit")
    rows = rows.join(closed, keys=_UNIT, join_type="left semi")
    done: dict[str, set[Span]] = {}
    for video_id, start_us, end_us in _tuples(rows, "video_id", "start_us", "end_us"):
        done.setdefault(video_id, set()).add((start_us, end_us))
    return done


def known_videos(
    catalog: Catalog, sources: Iterable[Source], recipe_id: str
) -> dict[str, KnownVideo]:
    """Return, by source_id, the videos that were read before from these very files.

    A file is the same where uri, size and version token are; those need not be read again.
    """
    asked = {
        source.source_id: (source.size_bytes, source.version_token)
        for source in sources
        if source.version_token is not None
    }
    columns = ["source_id", "size_bytes", "version_token", "video_id"]
    where = pc.field("video_id").is_valid() & _is_in("source_id", asked)
    rows = _tuples(catalog.read("sources", columns=columns, where=where), *columns)
    same = {
        source_id: video_id
        for source_id, *seen, video_id in rows
        if asked[source_id] == tuple(seen)
    }
    facts = catalog.read(
        "videos",
        columns=["video_id", "duration_us"],
        where=(pc.field("recipe_id") == recipe_id) & _is_in("video_id", same.values()),
    )
    durations = dict(_tuples(facts, "video_id", "duration_us"))
    return {
        source_id: KnownVideo(video_id=video_id, duration_us=durations.get(video_id))
        for source_id, video_id in same.items()
    }


def video_facts(catalog: Catalog, video_ids: Iterable[str]) -> dict[str, VideoFacts]:
    """Return what was found out about videos under any recipe, last by the clock."""
    names = [field.name for field in fields(VideoFacts)]
    where = _is_in("video_id", video_ids)
    rows = catalog.read("videos", columns=["video_id", "created_at", *names], where=where)
    return {
        row["video_id"]: VideoFacts(**{name: row[name] for name in names})
        for row in rows.sort_by("created_at").to_pylist()
    }


def count_rejects(
    catalog: Catalog,
    recipe_id: str,
    *,
    adapter_keys: Collection[str],
    source_ids: Collection[str],
    except_unit: tuple[str, int, int],
) -> Counter[str]:
    """Return how often a recipe rejected segments, by adapter_key, and whole files, by source_id.

    `except_unit` is the (run_id, shard, unit) that is being written: an attempt at it that died
    may have left its own rows.
    """
    is_segment = _is_in("adapter_key", adapter_keys)
    is_whole = pc.field("adapter_key").is_null() & _is_in("source_id", source_ids)
    columns = [*_UNIT, "adapter_key", "source_id"]
    where = (pc.field("recipe_id") == recipe_id) & (is_segment | is_whole)
    rows = _tuples(catalog.read("rejects", columns=columns, where=where), *columns)
    return Counter(key or source_id for *unit, key, source_id in rows if tuple(unit) != except_unit)


def deleted_videos(catalog: Catalog) -> set[str]:
    """Return the videos whose last tombstone deletes them."""
    rows = catalog.read("tombstones", columns=["video_id", "sequence", "is_deleted"])
    last = {
        video_id: is_deleted
        for _, video_id, is_deleted in sorted(_tuples(rows, "sequence", "video_id", "is_deleted"))
    }
    return {video_id for video_id, is_deleted in last.items() if is_deleted}


def adapters_for(
    catalog: Catalog,
    video_ids: Collection[str],
    recipe_id: str,
    *,
    columns: Collection[str] | None = None,
) -> dict[str, list[Row]]:
    """Return the adapter rows of videos under a recipe, one per segment, in order of time.

    Videos that were deleted or have none are left out. `columns`: what is wanted of a row beside
    `video_id`, `adapter_key`, `start_us` and `adapter_sha256`; all of it where it is None.
    """
    asked = set(video_ids) - deleted_videos(catalog)
    where = _is_in("video_id", asked) & (pc.field("recipe_id") == recipe_id)
    wanted = None if columns is None else sorted({*_OF_ADAPTER, *columns})
    rows = catalog.read("adapters", columns=wanted, where=where).to_pylist()
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda r: (r["start_us"], r["adapter_sha256"])):
        best.setdefault(row["adapter_key"], row)
    found: dict[str, list[Row]] = {}
    for row in best.values():
        found.setdefault(row["video_id"], []).append(row)
    return found


def latest_recipe(catalog: Catalog) -> tuple[str, dict[str, Any]]:
    """Return the id and the content of the recipe that closed a unit last.

    Raises:
        CatalogError: no unit was closed yet.
    """
    where = pc.field("event") == "unit"
    rows = catalog.read("runs", columns=["created_at", "recipe_id", "recipe"], where=where)
    if not rows.num_rows:
        raise CatalogError("runs: no unit was committed yet; run `video2lora internalize` first")
    recipe_id = max(_tuples(rows, "created_at", "recipe_id"))[1]
    texts = rows.filter(pc.field("recipe_id") == recipe_id)["recipe"].drop_null()
    return recipe_id, json.loads(texts[0].as_py()) if len(texts) else {}


def resolve_video(catalog: Catalog, text: str) -> str:
    """Return the video_id meant by an id, an id's first digits, a URI, a file name or a given id.

    Raises:
        VideoUnknownError: nothing fits, or several videos do; the message lists near matches.
    """
    path = str(Path(text).expanduser().absolute()) if text else text
    where = (pc.field("uri") == text) | (pc.field("uri") == path) | (pc.field("given_id") == text)
    where = where | pc.ends_with(pc.field("uri"), pattern=f"/{text}")
    if _PREFIX.fullmatch(text):
        where = where | pc.starts_with(pc.field("video_id"), pattern=text)
    columns = ["created_at", "uri", "video_id", "given_id"]
    rows = catalog.read("videos", columns=columns, where=where)
    # A file that was replaced has a row for each content: the last one is meant.
    last: dict[str, str] = {
        uri: video_id for _, uri, video_id in sorted(_tuples(rows, *columns[:3]))
    }
    last = {**last, **{v: v for v in rows["video_id"].to_pylist() if _is_prefix(text, v)}}
    exact = last.get(text) or last.get(path)
    found = {exact} if exact else set(last.values())
    if len(found) == 1 and not found & deleted_videos(catalog):
        return found.pop()
    raise VideoUnknownError(_unresolved(catalog, text, found))


def _is_prefix(text: str, video_id: str) -> bool:
    return _PREFIX.fullmatch(text) is not None and video_id.startswith(text)


def _unresolved(catalog: Catalog, text: str, found: set[str]) -> str:
    if len(found) > 1:
        ids = ", ".join(sorted(video_id[:12] for video_id in found)[:_NEAR])
        return f"video {text!r}: {len(found)} videos fit ({ids}); give more digits or the whole URI"
    if found:
        return f"video {text!r}: it was deleted; internalize another, or restore it first"
    rows = catalog.read("videos", columns=["uri", "video_id"])
    names = {
        PurePosixPath(uri).name: video_id for uri, video_id in _tuples(rows, "uri", "video_id")
    }
    near = difflib.get_close_matches(PurePosixPath(text).name, names, n=_NEAR, cutoff=0.4)
    near = near or sorted(names)[:_NEAR]
    listed = ", ".join(f"{name} ({names[name][:12]})" for name in near)
    if not listed:
        return f"video {text!r}: the catalog holds no video; run `video2lora internalize` first"
    return f"video {text!r}: not in the catalog; near matches: {listed}"


def _is_in(column: str, values: Iterable[str]) -> pc.Expression:
    # Typed: Arrow takes an empty list for one of nulls, and refuses to compare.
    return pc.field(column).isin(pa.array(sorted(set(values)), type=pa.string()))


def _tuples(rows: pa.Table, *columns: str) -> Sequence[tuple[Any, ...]]:
    return list(zip(*(rows[column].to_pylist() for column in columns), strict=True))
