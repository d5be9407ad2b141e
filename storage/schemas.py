"""Rows against the catalog's tables: their Arrow schemas, and a check that names the column.

storage fills `run_id`, `shard`, `unit`, `schema_version` and `created_at` itself when a unit is
committed. A new column is optional and raises SCHEMA_VERSION; columns are never renamed or retyped.
The columns themselves are in storage/columns.py.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from storage.columns import ALWAYS, COLUMNS
from storage.errors import CatalogError, RowError

SCHEMA_VERSION: Final = 2

Row = Mapping[str, Any]

TABLES: Final = tuple(COLUMNS)
COMMIT_ORDER: Final = (
    "adapters",
    "sources",
    "videos",
    "compositions",
    "rejects",
    "segments",
    "answers",
    "evaluations",
    "tombstones",
    "runs",
)


def table_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table.

    Raises:
        CatalogError: there is no such table.
    """
    if table not in COLUMNS:
        raise CatalogError(f"catalog: no table {table!r}; the tables are {', '.join(TABLES)}")
    description, fields = COLUMNS[table]
    return pa.schema([*fields, *ALWAYS], metadata={"description": description})


def rows_to_arrow(table: str, rows: Sequence[Row]) -> pa.Table:
    """Turn rows into an Arrow table of exactly the table's schema, checked column by column.

    `schema_version` and `created_at` are filled in where they are missing.

    Raises:
        RowError: a column is unknown, missing or of another type.
    """
    schema = table_schema(table)
    stamp = {"schema_version": SCHEMA_VERSION, "created_at": datetime.now(UTC)}
    filled = [{**stamp, **row} for row in rows]
    for row in filled:
        _check_row(table, schema, row)
    try:
        return pa.Table.from_pylist(filled, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise RowError(f"{table}: a value does not fit its column ({error}); correct it") from error


def _check_row(table: str, schema: pa.Schema, row: Row) -> None:
    unknown = sorted(set(row) - set(schema.names))
    if unknown:
        raise RowError(
            f"{table}: unknown column {', '.join(unknown)} (known: {', '.join(schema.names)}); "
            "remove it or add it to storage/columns.py"
        )
    missing = [f.name for f in schema if not f.nullable and row.get(f.name) is None]
    if missing:
        raise RowError(f"{table}: a row has no {', '.join(missing)}; give every required column")
