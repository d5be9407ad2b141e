"""SQL from users: one SELECT, locked down.

DuckDB's own parser says how many statements there are and of which kind. Files outside the lake,
extensions, settings and Python variables are out of reach before the user's text is run.
"""

from collections.abc import Callable
from typing import Any, Final

import duckdb
import pyarrow as pa

from storage.errors import CatalogQueryError, reason_of
from storage.views import Files, create_views

_OFFLINE: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "temp_directory": "",
}


def run_query(
    sql: str, files: Callable[[], Files], *, root: str, filesystem: Any = None
) -> pa.Table:
    """Run one SELECT over the views of a lake and return its rows.

    Args:
        sql: What the user typed.
        files: Looks up the live files of each table, once the text is found to be one SELECT.
        root: The one directory whose files may be read.
        filesystem: The fsspec file system of a root that is not local.

    Raises:
        CatalogQueryError: the text is not one SELECT, or it failed.
    """
    with duckdb.connect(config=_OFFLINE) as connection:
        statement = _only_select(connection, sql)
        if filesystem is not None:
            connection.register_filesystem(filesystem)
        _create_views(connection, files())
        _lock(connection, root)
        try:
            return connection.sql(statement).to_arrow_table()
        except duckdb.Error as error:
            raise CatalogQueryError(_failed(error)) from error


def _create_views(connection: duckdb.DuckDBPyConnection, files: Files) -> None:
    try:
        create_views(connection, files)
    except (duckdb.Error, OSError) as error:
        raise CatalogQueryError(
            f"catalog: a table file cannot be read ({reason_of(error)}); `video2lora verify` names"
            " every fault"
        ) from error


def _only_select(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise CatalogQueryError(_failed(error)) from error
    kinds = [statement.type.name for statement in statements]
    if kinds != ["SELECT"]:
        found = ", ".join(kinds) or "nothing"
        raise CatalogQueryError(
            f"sql: exactly one SELECT or WITH statement is allowed (found {found}); "
            "write one query, without changes or settings"
        )
    return statements[0]


def _lock(connection: duckdb.DuckDBPyConnection, root: str) -> None:
    directory = root.rstrip("/").replace("'", "''")
    connection.execute(f"SET allowed_directories = ['{directory}/']")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _failed(error: duckdb.Error) -> str:
    # What follows "LINE 1:" points at a column of the text, which one line cannot show.
    said = reason_of(error).partition(" LINE ")[0]
    return f"sql: {said}; correct the query (`select * from duckdb_views()` lists the views)"
