"""Deleting visual tokens: of deleted videos, and of a sight that nobody needs any more.

They are a cache that no row names, so one look is enough: whoever misses a file decodes the video.
"""

from collections.abc import Callable, Collection, Iterator

from storage.file_listing import StoredFile
from storage.garbage import Collected, Listing
from storage.object_store import ObjectStore
from storage.token_store import FOLDER, TokenFile, description_of, resolve_sight


def of_deleted(
    objects: ObjectStore, listing: Listing, video_ids: Collection[str], *, is_dry_run: bool
) -> Collected:
    """Delete the tokens of deleted videos, also what a unit in flight wrote since."""
    if not video_ids:
        return Collected()
    gone = _select(listing, lambda file: file.video_id in video_ids)
    return _delete(objects, gone, is_dry_run=is_dry_run)


def of_sight(objects: ObjectStore, listing: Listing, sight: str, *, is_dry_run: bool) -> Collected:
    """Delete all tokens of a sight, or of `all`, and then what describes it.

    Raises:
        LakeError: no sight fits, or several do.
    """
    found = {file.sight_id for _, file in _select(listing, lambda _: True)}
    wanted = resolve_sight(objects, sight, found=found)
    done = _delete(
        objects, _select(listing, lambda file: file.sight_id in wanted), is_dry_run=is_dry_run
    )
    for sight_id in () if is_dry_run else wanted:
        objects.delete(description_of(sight_id))
    return done


def _select(
    listing: Listing, is_wanted: Callable[[TokenFile], bool]
) -> Iterator[tuple[StoredFile, TokenFile]]:
    for stored in listing.files(FOLDER):
        file = TokenFile.parse(stored.name)
        if file is not None and is_wanted(file):
            yield stored, file


def _delete(
    objects: ObjectStore, files: Iterator[tuple[StoredFile, TokenFile]], *, is_dry_run: bool
) -> Collected:
    done = Collected()
    for stored, file in files:
        done += Collected(num_visual_tokens=1, size_bytes=stored.size_bytes)
        if not is_dry_run:
            objects.delete(file.name)
    return done
