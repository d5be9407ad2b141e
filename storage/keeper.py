"""What keeps a lake well, as one object: check it, compact it, collect garbage, delete videos."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import fsspec

from storage import compaction, deletion, garbage, lookups, token_cleanup, verify
from storage.compaction import HISTORY, CompactedTable
from storage.deletion import Removed
from storage.faults import Checked
from storage.file_listing import FileListing
from storage.garbage import GRACE, Collected, Place
from storage.lake import Lake
from storage.remote import is_remote
from storage.token_store import files_of
from storage.verify import LakeParts, Scope


class Keeper:
    """Keeps one lake; every method is safe while others write to it."""

    def __init__(self, lake: Lake, *, clock: Callable[[], float] = time.time) -> None:
        """Keep `lake`; `clock` gives seconds since 1970."""
        self._lake = lake
        self._clock = clock
        self._listing = FileListing(lake.uri, lake.filesystem)

    def verify(self, scope: Scope | None = None) -> Checked:
        """Check that the lake is whole; see storage.verify."""
        parts = LakeParts(
            catalog=self._lake.catalog,
            objects=self._lake.objects,
            listing=self._listing,
            filesystem=self._lake.filesystem or fsspec.filesystem("file"),
        )
        return verify.verify(parts, scope or Scope())

    def compact(
        self, *, is_dry_run: bool = False, history: timedelta = HISTORY
    ) -> list[CompactedTable]:
        """Make few files of each table's many; see storage.compaction."""
        lake = self._lake
        return compaction.compact(
            lake.catalog, lake.objects, is_dry_run=is_dry_run, history=history
        )

    def collect_garbage(
        self, *, grace: timedelta = GRACE, history: timedelta = HISTORY, is_dry_run: bool = False
    ) -> Collected:
        """Delete what nothing names, at the second look; see storage.garbage.

        Visual tokens of deleted videos go at once.
        """
        lake = self._lake
        place = Place(
            objects=lake.objects,
            listing=self._listing,
            referenced=lambda: garbage.referenced_files(lake.catalog),
            now_s=self._clock(),
            grace=grace,
            is_dry_run=is_dry_run,
        )
        done = garbage.collect_files(place)
        keep = max(history, grace)
        superseded = garbage.vacuum(lake.catalog, keep=keep, is_dry_run=is_dry_run)
        done += Collected(num_table_files=superseded)
        done += token_cleanup.of_deleted(
            lake.objects, self._listing, lookups.deleted_videos(lake.catalog), is_dry_run=is_dry_run
        )
        if is_remote(lake.uri):
            before_s = self._clock() - grace.total_seconds()
            uploads = garbage.end_uploads(
                lake.filesystem, lake.uri, older_than_s=before_s, is_dry_run=is_dry_run
            )
            done += Collected(num_uploads=uploads)
        return done

    def remove_visual_tokens(self, sight: str, *, is_dry_run: bool = False) -> Collected:
        """Delete what a sight saw: its id, the first digits of it, or `all`.

        Raises:
            LakeError: no sight fits, or several do.
        """
        objects = self._lake.objects
        return token_cleanup.of_sight(objects, self._listing, sight, is_dry_run=is_dry_run)

    def delete_video(
        self, video_id: str, *, reason: str | None = None, is_dry_run: bool = False
    ) -> Removed:
        """Delete a video for good, also what a unit in flight wrote since; see storage.deletion."""
        catalog = self._lake.catalog
        is_new = not is_dry_run and deletion.set_deleted(
            catalog, video_id, is_deleted=True, reason=reason
        )
        removed = deletion.remove_rows(catalog, [video_id], is_dry_run=is_dry_run)
        files = list(files_of(self._lake.objects, [video_id]))
        if not is_dry_run:
            for file in files:
                self._lake.objects.delete(file.name)
        return replace(removed, is_new=is_new, num_visual_tokens=len(files))

    def undelete_video(self, video_id: str) -> bool:
        """Let a deleted video be made again; its rows do not come back. False where it may be."""
        return deletion.set_deleted(self._lake.catalog, video_id, is_deleted=False)

    def remove_rows_of_deleted(self, *, is_dry_run: bool = False) -> Removed:
        """Remove what units in flight wrote about videos deleted meanwhile."""
        return deletion.remove_rows_of_deleted(self._lake.catalog, is_dry_run=is_dry_run)

    def purge_table_files(self) -> int:
        """Delete superseded table files now, and with them every version but the last."""
        return garbage.purge_table_files(self._lake.catalog)
