"""Garbage collection: what no row names is moved aside, and deleted at a later look.

Content-addressed files are shared, so a writer may find the very file that is about to go. Hence
two looks, at least `grace` apart. The first takes a file that nobody names and nobody has touched
for `grace`, and moves it to ROOT/garbage/: copies it, looks at it again, removes it. The second,
`grace` after that, deletes it there, or puts it back where a row names it by then.

Why no row ever names bytes that are gone: a writer makes sure of a file (AdapterStore.require) less
than `grace` before its row is visible. If it did so before the move, the second look sees the row.
If it did so after, it found, put or got back a file under the final name, which is not the one that
is deleted. In between, reading an adapter looks into ROOT/garbage/ too, and puts it back.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final, Protocol

from storage.adapter_store import FOLDER, GARBAGE
from storage.catalog import Catalog
from storage.errors import ObjectMissingError
from storage.file_listing import StoredFile
from storage.object_store import ObjectStore
from storage.schemas import TABLES

logger = logging.getLogger(__name__)

GRACE: Final = timedelta(hours=1)
_TEMPORARY: Final = (".tmp-", ".probe-")


class Listing(Protocol):
    """What collecting needs to know of the files."""

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        """List the files of a folder and of those below it."""
        ...

    def file(self, name: str) -> StoredFile | None:
        """Look at one file."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a collection did, or would do."""

    num_moved: int = 0
    """Files that nothing names, moved to ROOT/garbage/."""
    num_deleted: int = 0
    """Files deleted from there for good."""
    num_restored: int = 0
    """Files put back because a row names them."""
    num_temporary: int = 0
    """Files of writers that died, deleted."""
    num_table_files: int = 0
    """Superseded or uncommitted files of tables, deleted."""
    num_uploads: int = 0
    """Unfinished uploads to S3, ended."""
    num_visual_tokens: int = 0
    """Files of visual tokens deleted: of deleted videos, or of a sight that was named."""
    size_bytes: int = 0
    """Bytes freed; table files and uploads aside."""

    def __add__(self, other: "Collected") -> "Collected":
        """Sum the counts."""
        names = [field.name for field in fields(self)]
        return Collected(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where to collect, and when it is."""

    objects: ObjectStore
    listing: Listing
    referenced: Callable[[], set[str]]
    """Reads the sha256 of every file that a row names, now."""
    now_s: float
    grace: timedelta = GRACE
    is_dry_run: bool = False

    def is_old(self, file: StoredFile) -> bool:
        """Say whether a file has not been touched for the grace."""
        return file.modified_s <= self.now_s - self.grace.total_seconds()


def collect_files(place: Place) -> Collected:
    """Take the second look at what was moved before, then the first look at everything else."""
    return _second_look(place) + _first_look(place) + _temporary_files(place)


def _second_look(place: Place) -> Collected:
    # The listing comes first: what is read afterwards is younger than every move it shows.
    moved = [file for file in place.listing.files(GARBAGE) if place.is_old(file)]
    wanted = place.referenced() if moved else set()
    done = Collected()
    for file in moved:
        if _sha256(file.name) in wanted:
            done += Collected(num_restored=1)
            if not place.is_dry_run:
                restore(place.objects, file.name)
        else:
            done += Collected(num_deleted=1, size_bytes=file.size_bytes)
            if not place.is_dry_run:
                place.objects.delete(file.name)
    return done


def _first_look(place: Place) -> Collected:
    old = [file for file in place.listing.files(FOLDER) if place.is_old(file)]
    old = [file for file in old if not _is_temporary(file.name)]
    wanted = place.referenced() if old else set()
    done = Collected()
    for file in old:
        if _sha256(file.name) in wanted:
            continue
        if place.is_dry_run or _move(place, file):
            done += Collected(num_moved=1)
    return done


def _move(place: Place, file: StoredFile) -> bool:
    aside = f"{GARBAGE}/{file.name}"
    try:
        data = place.objects.read(file.name)
    except ObjectMissingError:
        return False
    if not place.objects.create(aside, data):
        # It was moved before and came back: its grace begins now.
        place.objects.refresh(aside, data)
    seen = place.listing.file(file.name)
    if seen is None or seen.modified_s != file.modified_s:
        return False
    place.objects.delete(file.name)
    return True


def restore(objects: ObjectStore, aside: str) -> None:
    """Put a file that was moved aside back where it was."""
    name = aside.removeprefix(f"{GARBAGE}/")
    if not objects.exists(name):
        objects.create(name, objects.read(aside))
    objects.delete(aside)


def _temporary_files(place: Place) -> Collected:
    done = Collected()
    for file in place.listing.files():
        if _is_temporary(file.name) and place.is_old(file):
            done += Collected(num_temporary=1, size_bytes=file.size_bytes)
            if not place.is_dry_run:
                place.objects.delete(file.name)
    return done


def _is_temporary(name: str) -> bool:
    # Below catalog/ the files are Delta's own; vacuum knows which of those are in use.
    return name.rpartition("/")[2].startswith(_TEMPORARY) and not name.startswith("catalog/")


def _sha256(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def referenced_files(catalog: Catalog) -> set[str]:
    """Return the sha256 of every adapter file that a row names, hidden rows included."""
    named: set[str] = set()
    for table in ("adapters", "compositions"):
        column = catalog.read(table, columns=["adapter_sha256"])["adapter_sha256"]
        named.update(sha256 for sha256 in column.unique().to_pylist() if sha256 is not None)
    parents = catalog.read("compositions", columns=["parents"])["parents"]
    named.update(sha256 for row in parents.to_pylist() for sha256 in row)
    return named


def vacuum(catalog: Catalog, *, keep: timedelta, is_dry_run: bool) -> int:
    """Delete table files that no version younger than `keep` names, and count them."""
    hours = -(-int(keep.total_seconds()) // 3600)

    def change(opened: Any) -> list[str]:
        deleted: list[str] = opened.vacuum(
            hours, dry_run=is_dry_run, enforce_retention_duration=False, full=True
        )
        return deleted

    return sum(len(catalog.rewrite(table, change) or []) for table in TABLES)


def purge_table_files(catalog: Catalog) -> int:
    """Delete every superseded table file now; no version before the last can be read any more.

    Files that a writer has not committed yet are not in the log, and stay.
    """

    def change(opened: Any) -> list[str]:
        deleted: list[str] = opened.vacuum(0, dry_run=False, enforce_retention_duration=False)
        return deleted

    return sum(len(catalog.rewrite(table, change) or []) for table in TABLES)


def end_uploads(filesystem: Any, root: str, *, older_than_s: float, is_dry_run: bool) -> int:
    """End uploads below an `s3://` root that began before a time and never ended; count them."""
    space, _, prefix = root.removeprefix("s3://").rstrip("/").partition("/")
    ended = 0
    marker: dict[str, str] = {}
    while True:
        page = filesystem.call_s3(
            "list_multipart_uploads", Bucket=space, Prefix=f"{prefix}/" if prefix else "", **marker
        )
        for upload in page.get("Uploads", []):
            if upload["Initiated"].timestamp() <= older_than_s:
                ended += 1
                if not is_dry_run:
                    filesystem.abort_mpu(space, upload["Key"], upload["UploadId"])
        if not page.get("IsTruncated"):
            return ended
        marker = {
            "KeyMarker": page["NextKeyMarker"],
            "UploadIdMarker": page["NextUploadIdMarker"],
        }
