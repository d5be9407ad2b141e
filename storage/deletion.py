"""Deleting a video: a tombstone first, then its rows, then (by gc) the files that nothing names.

The tombstone hides the video from every view at once and keeps it from being made again. Its rows
then go from every table but two: tombstones, and sources, which keeps uri, size, version and hash
so that a later run knows the file without reading it; what the manifest said about it is blanked.
A unit in flight may still commit rows of the video: they are hidden, and every gc removes them.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from storage.catalog import Catalog
from storage.errors import CatalogError
from storage.lookups import deleted_videos

_TABLES: Final = ("answers", "compositions", "rejects", "segments", "adapters", "videos")
_BLANKED: Final = ("corpus", "given_id", "metadata")
_ATTEMPTS: Final = 20
# What one predicate lists at most: longer ones are slow to parse.
_LISTED: Final = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Removed:
    """What a deletion removed, or would remove."""

    num_rows: dict[str, int] = field(default_factory=dict)
    """Rows by table."""
    num_sources_blanked: int = 0
    """Rows of sources that lost what the manifest said."""
    num_visual_tokens: int = 0
    """Files of visual tokens, deleted at once: nothing names them."""
    is_new: bool = False
    """Whether a tombstone was written: false where the video was deleted before."""


def set_deleted(
    catalog: Catalog, video_id: str, *, is_deleted: bool, reason: str | None = None
) -> bool:
    """Write the tombstone that deletes or restores a video; False where it is so already.

    Raises:
        CatalogError: other writers kept changing the same video.
    """
    app_id = f"tombstone:{video_id}"
    for _ in range(_ATTEMPTS):
        where = pc.field("video_id") == video_id
        columns = ["sequence", "is_deleted"]
        rows = catalog.read("tombstones", columns=columns, where=where).to_pylist()
        last = max(rows, key=lambda row: row["sequence"], default=None)
        if (last is not None and last["is_deleted"]) == is_deleted:
            return False
        sequence = 1 if last is None else last["sequence"] + 1
        row = {"video_id": video_id, "is_deleted": is_deleted, "reason": reason}
        # The transaction gives each number to one writer only.
        row["sequence"] = sequence
        if catalog.append("tombstones", [row], transaction=(app_id, sequence)):
            return True
    raise CatalogError(f"video {video_id[:12]}: others keep changing it; run it again")


def remove_rows(
    catalog: Catalog, video_ids: Collection[str], *, is_dry_run: bool = False
) -> Removed:
    """Remove the rows of videos from every table that tells about them.

    Compositions and answers over several videos go too where one of their parents does, and so do
    compositions whose parents went in an earlier deletion.
    """
    wanted = sorted(video_ids)
    if not wanted:
        return Removed()
    composed = _compositions(catalog, wanted)
    conditions = {table: [("video_id", wanted)] for table in _TABLES}
    conditions["compositions"].append(("composition_id", composed))
    conditions["answers"].append(("composition_id", composed))
    conditions["answers"].append(("answer_id", _answers(catalog, wanted)))
    counts = {
        table: sum(_remove(catalog, table, *at, is_dry_run=is_dry_run) for at in conditions[table])
        for table in _TABLES
    }
    blanked = _blank_sources(catalog, wanted, is_dry_run=is_dry_run)
    return Removed(num_rows={t: n for t, n in counts.items() if n}, num_sources_blanked=blanked)


def remove_rows_of_deleted(catalog: Catalog, *, is_dry_run: bool = False) -> Removed:
    """Remove rows that units in flight wrote about videos deleted meanwhile."""
    deleted = deleted_videos(catalog)
    late = set()
    for table in _TABLES:
        where = _is_in("video_id", deleted)
        found = catalog.read(table, columns=["video_id"], where=where)
        late.update(found["video_id"].unique().to_pylist())
    return remove_rows(catalog, late, is_dry_run=is_dry_run)


def _compositions(catalog: Catalog, video_ids: list[str]) -> list[str]:
    """Compositions, of any video, with a parent that these videos' rows name."""
    ours = _adapters_of(catalog, video_ids)
    rows = catalog.read("compositions", columns=["composition_id", "video_id", "parents"])
    known = set(_column(catalog.read("adapters", columns=["adapter_sha256"]), "adapter_sha256"))
    found = set()
    for row in rows.to_pylist():
        parents = set(row["parents"])
        # Two files with the same frames share adapters, and even the id: a video's own composition
        # goes by its video_id, never by what it shares.
        if (row["video_id"] is None and parents & ours) or not parents <= known:
            found.add(row["composition_id"])
    return sorted(found)


def _answers(catalog: Catalog, video_ids: list[str]) -> list[str]:
    """Answers about several videos at once, one of them these."""
    ours = _adapters_of(catalog, video_ids)
    where = pc.field("video_id").is_null() & pc.field("parents").is_valid()
    rows = catalog.read("answers", columns=["answer_id", "parents"], where=where).to_pylist()
    return sorted(row["answer_id"] for row in rows if ours & set(row["parents"]))


def _adapters_of(catalog: Catalog, video_ids: Iterable[str]) -> set[str]:
    where = _is_in("video_id", video_ids)
    return set(
        _column(catalog.read("adapters", columns=["adapter_sha256"], where=where), "adapter_sha256")
    )


def _remove(
    catalog: Catalog, table: str, column: str, values: list[str], *, is_dry_run: bool
) -> int:
    num_found: int = catalog.read(table, columns=[column], where=_is_in(column, values)).num_rows
    if not num_found or is_dry_run:
        return num_found
    return sum(_delete(catalog, table, text) for text in _predicates(column, values))


def _delete(catalog: Catalog, table: str, predicate: str) -> int:
    def change(opened: DeltaTable) -> int:
        return int(opened.delete(predicate=predicate).get("num_deleted_rows") or 0)

    return catalog.rewrite(table, change) or 0


def _blank(catalog: Catalog, predicate: str) -> None:
    def change(opened: DeltaTable) -> None:
        known = {field.name for field in opened.schema().fields}
        updates: dict[str, str] = {name: "NULL" for name in _BLANKED if name in known}
        opened.update(updates=updates, predicate=predicate)

    catalog.rewrite("sources", change)


def _blank_sources(catalog: Catalog, video_ids: list[str], *, is_dry_run: bool) -> int:
    where = _is_in("video_id", video_ids)
    told = pc.field(_BLANKED[0]).is_valid()
    for column in _BLANKED[1:]:
        told = told | pc.field(column).is_valid()
    num_found: int = catalog.read("sources", columns=["video_id"], where=where & told).num_rows
    if num_found and not is_dry_run:
        for predicate in _predicates("video_id", video_ids):
            _blank(catalog, predicate)
    return num_found


def _predicates(column: str, values: list[str]) -> list[str]:
    spans = [values[i : i + _LISTED] for i in range(0, len(values), _LISTED)]
    return [f"{column} IN ({', '.join(_quoted(value) for value in span)})" for span in spans]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _is_in(column: str, values: Iterable[str]) -> pc.Expression:
    return pc.field(column).isin(pa.array(sorted(set(values)), type=pa.string()))


def _column(rows: pa.Table, name: str) -> list[str]:
    values: list[str] = rows[name].unique().to_pylist()
    return values
