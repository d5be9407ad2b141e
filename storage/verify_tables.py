"""Is every table whole: each live file there, of its size, readable, with the log's rows?"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from storage.catalog import Catalog
from storage.errors import CatalogError, reason_of
from storage.faults import Checked
from storage.schemas import TABLES

_LOST: Final = (
    "restore the file from a copy, or drop its rows with delta's repair and internalize again"
)


def check_tables(
    catalog: Catalog, filesystem: fsspec.AbstractFileSystem, checked: Checked, *, is_quick: bool
) -> set[str]:
    """Check every table file and return the tables that can be read.

    Args:
        catalog: The tables.
        filesystem: Reads their files.
        checked: Takes faults and counts.
        is_quick: Read each file's footer, not its rows.
    """
    readable = set()
    for table in TABLES:
        try:
            opened = catalog.open_table(table)
        except CatalogError as error:
            checked.add("table", catalog.table_uri(table), str(error), _LOST)
            continue
        if opened is None:
            fix = "internalize into this lake once: it makes every table"
            checked.add("table", catalog.table_uri(table), "it is not there", fix)
            continue
        files = opened.get_add_actions(flatten=True)
        checked.counts["tables"] += 1
        columns = ("path", "size_bytes", "num_records")
        entries = zip(*(files[name].to_pylist() for name in columns), strict=True)
        wrong = 0
        for path, size_bytes, num_rows in entries:
            uri = f"{catalog.table_uri(table)}/{unquote(path)}"
            entry = {"uri": uri, "size_bytes": size_bytes, "num_rows": num_rows}
            wrong += _is_wrong(entry, filesystem, checked, is_quick=is_quick)
        if not wrong:
            readable.add(table)
    return readable


def _is_wrong(
    entry: Mapping[str, Any],
    filesystem: fsspec.AbstractFileSystem,
    checked: Checked,
    *,
    is_quick: bool,
) -> bool:
    uri = entry["uri"]
    checked.counts["table_files"] += 1
    try:
        said = _look(entry, filesystem, is_quick=is_quick)
    except FileNotFoundError:
        said = "it is not there, though the table's log names it"
    except (OSError, pa.ArrowException) as error:
        said = f"it cannot be read ({reason_of(error)})"
    if said is not None:
        checked.add("table_file", uri, said, _LOST)
    return said is not None


def _look(
    entry: Mapping[str, Any], filesystem: fsspec.AbstractFileSystem, *, is_quick: bool
) -> str | None:
    size = filesystem.info(entry["uri"])["size"]
    if size != entry["size_bytes"]:
        return f"it has {size} bytes, expected {entry['size_bytes']}: it was cut short or replaced"
    with filesystem.open(entry["uri"], "rb") as stream, pq.ParquetFile(stream) as file:
        num_rows = file.metadata.num_rows
        if entry["num_rows"] is not None and num_rows != entry["num_rows"]:
            return f"it has {num_rows} rows, expected {entry['num_rows']}"
        if not is_quick:
            for _ in file.iter_batches(batch_size=8192):
                pass
    return None
