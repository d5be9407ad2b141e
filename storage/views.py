"""SQL views over the live files of a lake, in memory and in ROOT/catalog.duckdb.

catalog.duckdb holds no rows, only views, so that it can be replaced at each publish while others
read it: an open DuckDB writer would shut out every reader. Paths in it are absolute.
"""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from storage.durable import sync
from storage.errors import LakeError, reason_of
from storage.schemas import TABLES, table_schema

# Written for DuckDB 1.0, the oldest that must open it; 2.0 would write a format 1.5 cannot read.
_FORMAT: Final = "v1.0.0"

_TYPES: Final = {
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMPTZ",
}

Files = Mapping[str, Sequence[str]]


def create_views(connection: duckdb.DuckDBPyConnection, files: Files) -> None:
    """Create `raw.<table>` over each table's live files, and the views of views.sql over those."""
    connection.execute("CREATE SCHEMA raw")
    for table in files:
        connection.execute(f"CREATE VIEW raw.{table} AS {_live_rows(table, ())}")
    connection.execute(Path(__file__).with_name("views.sql").read_text(encoding="utf-8"))
    # The files come last: making a view opens every file of every view below it.
    for table, uris in files.items():
        if uris:
            live_rows = _live_rows(table, uris)
            connection.execute(f"CREATE OR REPLACE VIEW raw.{table} AS {live_rows}")


def describe_views() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return name, description and (column, SQL type) pairs of every view, in the file's order."""
    with duckdb.connect() as connection:
        create_views(connection, dict.fromkeys(TABLES, ()))
        views = connection.execute(
            "SELECT view_name, comment FROM duckdb_views() "
            "WHERE schema_name = 'main' AND NOT internal ORDER BY view_oid"
        ).fetchall()
        return [(name, comment, _columns(connection, name)) for name, comment in views]


def publish(path: Path, files: Files) -> None:
    """Replace the file of views at `path` atomically."""
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex}.duckdb")
    try:
        with duckdb.connect() as connection:
            target = _quoted(str(temporary))
            # Attached under the name it has when opened, so that no other name gets into a view.
            connection.execute(f"ATTACH {target} AS {path.stem} (STORAGE_VERSION '{_FORMAT}')")
            connection.execute(f"USE {path.stem}")
            create_views(connection, files)
            connection.execute("USE memory")
            connection.execute(f"DETACH {path.stem}")
        temporary.replace(path)
        sync(path.parent)
    except (OSError, duckdb.Error) as error:
        said = reason_of(error)
        raise LakeError(f"{path}: cannot publish the views ({said}); check the disk") from error
    finally:
        temporary.unlink(missing_ok=True)


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in connection.execute(f"DESCRIBE {view}").fetchall()]


def _live_rows(table: str, uris: Sequence[str]) -> str:
    nulls = ", ".join(
        f"CAST(NULL AS {_sql_type(field.type)}) AS {field.name}" for field in table_schema(table)
    )
    # The empty first branch gives every column, also those that no live file has yet.
    empty = f"SELECT {nulls} WHERE false"
    if not uris:
        return empty
    listed = ", ".join(_quoted(uri) for uri in uris)
    options = "union_by_name = true, hive_partitioning = false"
    return f"{empty} UNION ALL BY NAME SELECT * FROM read_parquet([{listed}], {options})"


def _sql_type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_TYPES[kind.value_type]}[]"
    return _TYPES[kind]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
