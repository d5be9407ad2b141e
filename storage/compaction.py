"""Compaction: many small table files become few, and the log forgets what is past its history.

Files cost, rows do not: 1,000 files are seconds of a query's wall time. Nothing that a reader of
the last days could ask for is deleted here; superseded files are deleted by gc. Writers go on
meanwhile: appends and a compaction never disturb each other, a deletion is waited for.
Two compactions would double the rows (see turns), so there is one at a time.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import pyarrow as pa
from deltalake import DeltaTable

from storage.catalog import SETTINGS, Catalog
from storage.object_store import ObjectStore
from storage.schemas import TABLES
from storage.turns import Turn, taken_turn

TARGET_BYTES: Final = 128 * 2**20
HISTORY: Final = timedelta(days=7)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactedTable:
    """What compaction did to a table, or would do."""

    table: str
    num_rows: int
    num_files: int
    """Live files before."""
    num_files_after: int
    size_bytes: int
    """Live bytes before."""
    version: int
    """The version after; what `sql --as-of TABLE=VERSION` takes."""


def compact(
    catalog: Catalog,
    objects: ObjectStore,
    *,
    is_dry_run: bool = False,
    history: timedelta = HISTORY,
) -> list[CompactedTable]:
    """Compact every table that exists.

    Args:
        catalog: The tables.
        objects: Where turns are taken.
        is_dry_run: Only estimate, from the sizes in the log.
        history: How long a table can be read as it was; older log entries go.

    Raises:
        LakeError: another process compacts this lake.
        CatalogError: a table cannot be read or written.
    """
    if is_dry_run:
        return _only(_estimate(catalog, table) for table in TABLES)
    with taken_turn(objects, "compact") as turn:
        return _only(_compact_table(catalog, table, turn, history) for table in TABLES)


def _only(tables: Any) -> list[CompactedTable]:
    return [table for table in tables if table is not None]


def _estimate(catalog: Catalog, table: str) -> CompactedTable | None:
    opened = catalog.open_table(table)
    if opened is None:
        return None
    rows, sizes = live_figures(opened)
    small = [size for size in sizes if size < TARGET_BYTES]
    after = len(sizes) - len(small) + -(-sum(small) // TARGET_BYTES)
    return CompactedTable(
        table=table,
        num_rows=rows,
        num_files=len(sizes),
        num_files_after=after,
        size_bytes=sum(sizes),
        version=opened.version(),
    )


def _compact_table(
    catalog: Catalog, table: str, turn: Turn, history: timedelta
) -> CompactedTable | None:
    before = _estimate(catalog, table)
    if before is None:
        return None
    turn.require()
    after = catalog.rewrite(table, lambda opened: _compact(opened, history))
    assert after is not None
    # Only now: what is compacted is flushed to disk, and the log may forget what came before.
    catalog.rewrite(table, _shorten_log)
    return CompactedTable(
        table=table,
        num_rows=before.num_rows,
        num_files=before.num_files,
        num_files_after=after[0],
        size_bytes=before.size_bytes,
        version=after[1],
    )


def _compact(opened: DeltaTable, history: timedelta) -> tuple[int, int]:
    kept = f"interval {round(history.total_seconds())} seconds"
    wanted = {**SETTINGS, "delta.logRetentionDuration": kept}
    if {name: opened.metadata().configuration.get(name) for name in wanted} != wanted:
        opened.alter.set_table_properties(wanted)
    if len(opened.file_uris()) > 1:
        opened.optimize.compact(target_size=TARGET_BYTES)
    return len(opened.file_uris()), opened.version()


def _shorten_log(opened: DeltaTable) -> None:
    opened.create_checkpoint()
    opened.cleanup_metadata()


def live_figures(opened: DeltaTable) -> tuple[int, list[int]]:
    """Return the rows of a table and the sizes of its live files, as its log tells them."""
    columns = pa.table(opened.get_add_actions(flatten=True))
    rows: list[int | None] = columns["num_records"].to_pylist()
    sizes: list[int] = columns["size_bytes"].to_pylist()
    return sum(n or 0 for n in rows), sizes
