"""The catalog: Delta tables with exactly-once appends.

An append that carries a transaction (app id, number) is done once, whoever else tries the same: the
number committed so far is read first (Delta itself accepts the same number twice in a row), the
append is made against that very snapshot, and where another writer was faster Delta answers
CommitFailedError and the decision is made anew. On S3 the answer to a commit can be lost after it
went through; so an append without a transaction gets one of its own, by which it is found again.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as pa_dataset
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from storage.durable import sync
from storage.errors import CatalogError, reason_of
from storage.remote import is_remote
from storage.schemas import TABLES, Row, rows_to_arrow, table_schema

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 8
_PAUSE_S: Final = 0.05
# Every look at a table adds a fragment to what delta-rs remembers of it: after 250 of them a commit
# took 8 times as long, opened anew every tenth version it stays the same.
_REOPEN_AFTER: Final = 10
# A commit reads the log since its last checkpoint: with the default of 100 it took twice as long.
SETTINGS: Final = {
    "delta.checkpointInterval": "10",
    "delta.logRetentionDuration": "interval 7 days",
    "delta.deletedFileRetentionDuration": "interval 7 days",
}
# Faults of the network that one append bears; delta-rs repeats no commit whose answer is lost.
_FAULTS: Final = 3

T = TypeVar("T")
AsOf = datetime | Mapping[str, int]


class Catalog:
    """The tables under ROOT/catalog. One instance serves one thread."""

    def __init__(
        self,
        uri: str,
        *,
        storage_options: Mapping[str, str] | None = None,
        before_write: Callable[[], None] | None = None,
    ) -> None:
        """Use the tables below `uri`; `before_write` may refuse writing by raising."""
        self._before_write = before_write or _nothing
        self._uri = uri.rstrip("/")
        self._options = dict(storage_options or {})
        self._open: dict[str, DeltaTable] = {}
        self._opened_at: dict[str, int] = {}

    def create(self) -> None:
        """Make every table that is not there yet."""
        for table in TABLES:
            self._writable(table)

    def exists(self) -> bool:
        """Say whether the catalog was created: its last table is there."""
        table = TABLES[-1]
        try:
            return DeltaTable.is_deltatable(self._table_uri(table), self._options)
        except (DeltaError, OSError) as error:
            where = self._table_uri(table)
            raise CatalogError(
                f"{where}: cannot look for it ({reason_of(error)}); check the lake and its rights"
            ) from error

    def append(
        self, table: str, rows: Sequence[Row], *, transaction: tuple[str, int] | None = None
    ) -> bool:
        """Append rows in one commit; return False where the transaction was committed before.

        False may also be said of this very append, where the answer to its commit was lost.

        Raises:
            RowError: a row does not fit the table.
            CatalogError: the table cannot be written.
        """
        arrow = rows_to_arrow(table, rows)
        app_id, number = transaction or (f"once:{uuid.uuid4().hex}", 0)
        properties = CommitProperties(app_transactions=[Transaction(app_id, number)])
        for attempt in range(_ATTEMPTS):
            handle = self._writable(table)
            if self._number(handle, app_id) >= number:
                return transaction is None
            try:
                self._write(handle, arrow, properties)
            except CommitFailedError:
                logger.info("%s: another writer was faster, attempt %d", table, attempt + 1)
            except (DeltaError, OSError) as error:
                if attempt >= _FAULTS or not is_remote(self._uri):
                    raise CatalogError(_failed("write", table, error)) from error
                logger.info("%s: attempt %d failed: %s", table, attempt + 1, reason_of(error))
            else:
                return True
            time.sleep(_PAUSE_S * attempt)
        raise CatalogError(f"{table}: {_ATTEMPTS} commits failed; fewer writers, then run again")

    def committed(self, table: str, app_id: str) -> int:
        """Return the highest transaction number of an app id in a table; -1 where there is none."""
        handle = self._readable(table)
        return -1 if handle is None else self._number(handle, app_id)

    def read(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        where: pa_dataset.Expression | None = None,
        as_of: AsOf | None = None,
    ) -> pa.Table:
        """Return the live rows of a table, with every column of its schema."""
        schema = table_schema(table)
        names = list(columns) if columns is not None else schema.names
        wanted = pa.schema([schema.field(name) for name in names])
        handle = self._readable(table, as_of)
        if handle is None:
            return wanted.empty_table()
        try:
            dataset = handle.to_pyarrow_dataset(schema=schema)
            return _rows(dataset, names, where).cast(wanted)
        except (DeltaError, OSError, pa.ArrowInvalid) as error:
            raise CatalogError(_failed("read", table, error)) from error

    def file_uris(self, table: str, *, as_of: AsOf | None = None) -> list[str]:
        """Return the live Parquet files of a table; none where it does not exist."""
        handle = self._readable(table, as_of)
        if handle is None:
            return []
        # delta-rs gives local paths percent-encoded, as if they were URIs.
        decode = str if is_remote(self._uri) else unquote
        return sorted(decode(uri) for uri in handle.file_uris())

    def open_table(self, table: str) -> DeltaTable | None:
        """Open a table at its newest version for maintenance; None where it does not exist."""
        self._open.pop(table, None)
        return self._readable(table)

    def table_uri(self, table: str) -> str:
        """Return where a table is."""
        return self._table_uri(table)

    def rewrite(self, table: str, change: Callable[[DeltaTable], T]) -> T | None:
        """Apply a change that rewrites files, again where another writer's commit forbids it.

        Returns:
            What `change` returns; None where the table does not exist.
        """
        for attempt in range(_ATTEMPTS):
            opened = self.open_table(table)
            if opened is None:
                return None
            self._before_write()
            before = opened.version()
            try:
                done = change(opened)
            except CommitFailedError:
                logger.info("%s: another writer was faster, attempt %d", table, attempt + 1)
                time.sleep(_PAUSE_S * attempt)
            except (DeltaError, OSError) as error:
                raise CatalogError(_failed("change", table, error)) from error
            else:
                _sync_since(opened, before)
                return done
        raise CatalogError(
            f"{table}: {_ATTEMPTS} tries to rewrite it failed because others wrote to it; "
            "run it again when fewer write"
        )

    def _table_uri(self, table: str) -> str:
        table_schema(table)
        return f"{self._uri}/{table}"

    def _writable(self, table: str) -> DeltaTable:
        self._before_write()
        handle = self._readable(table)
        if handle is not None:
            return handle
        schema = table_schema(table)
        try:
            DeltaTable.create(
                self._table_uri(table),
                schema=schema,
                mode="ignore",
                name=table,
                description=schema.metadata[b"description"].decode(),
                configuration=dict(SETTINGS),
                storage_options=self._options,
            )
        except CommitFailedError:
            logger.info("%s: another writer created the table", table)
        except (DeltaError, OSError) as error:
            raise CatalogError(_failed("create", table, error)) from error
        created = self._readable(table)
        if created is None:
            raise CatalogError(f"catalog table {table}: it was created and is gone; run again")
        return created

    def _readable(self, table: str, as_of: AsOf | None = None) -> DeltaTable | None:
        try:
            if as_of is not None:
                return self._load(table, as_of)
            self._look(table)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            raise CatalogError(_failed("read", table, error)) from error
        return self._open[table]

    def _look(self, table: str) -> None:
        if table in self._open:
            self._open[table].update_incremental()
            if self._open[table].version() < self._opened_at[table] + _REOPEN_AFTER:
                return
        self._open[table] = self._load(table, None)
        self._opened_at[table] = self._open[table].version()

    def _load(self, table: str, as_of: AsOf | None) -> DeltaTable:
        uri = self._table_uri(table)
        version = as_of.get(table) if isinstance(as_of, Mapping) else None
        handle = DeltaTable(uri, version=version, storage_options=self._options)
        if isinstance(as_of, datetime):
            handle.load_as_version(as_of)
        return handle

    @staticmethod
    def _number(handle: DeltaTable, app_id: str) -> int:
        number = handle.transaction_version(app_id)
        return -1 if number is None else number

    @staticmethod
    def _write(handle: DeltaTable, arrow: pa.Table, properties: CommitProperties) -> None:
        known = {field.name: field.metadata for field in handle.schema().fields}
        is_wider = bool(set(arrow.column_names) - known.keys())
        arrow = _described_as(arrow, known)
        write_deltalake(
            handle,
            arrow,
            mode="append",
            schema_mode="merge" if is_wider else None,
            commit_properties=properties,
        )
        _sync_since(handle, handle.version() - 1)


def _nothing() -> None:
    """Refuse nothing."""


def _rows(
    dataset: pa_dataset.Dataset, names: Sequence[str], where: pa_dataset.Expression | None
) -> pa.Table:
    try:
        return dataset.to_table(columns=list(names), filter=where)
    except pa.ArrowNotImplementedError:
        # A file that delta-rs rewrote says its texts are string views, and Arrow cannot compare
        # the file's least and greatest of those with a text: read first, filter afterwards.
        batches = (pa.Table.from_batches([batch]).filter(where) for batch in dataset.to_batches())
        found = [batch.select(list(names)) for batch in batches if batch.num_rows]
        return pa.concat_tables(found) if found else dataset.schema.empty_table().select(names)


def _described_as(arrow: pa.Table, known: Mapping[str, Mapping[str, str]]) -> pa.Table:
    """Describe columns as the table does: Delta refuses an append whose descriptions differ."""
    fields = [
        field.with_metadata(dict(known[field.name])) if field.name in known else field
        for field in arrow.schema
    ]
    return pa.table(arrow.columns, schema=pa.schema(fields, metadata=arrow.schema.metadata))


def _sync_since(opened: DeltaTable, version: int) -> None:
    if is_remote(opened.table_uri):
        return
    table = Path(unquote(opened.table_uri.removeprefix("file://")))
    for newer in range(version + 1, opened.version() + 1):
        # Another process may have shortened the log meanwhile.
        with suppress(FileNotFoundError):
            _sync_commit(table, newer)


def _sync_commit(table: Path, version: int) -> None:
    # delta-rs leaves flushing to the system: after a power cut its log could name lost files.
    log = table / "_delta_log"
    entry = log / f"{version:020d}.json"
    for line in entry.read_text(encoding="utf-8").splitlines():
        added = json.loads(line).get("add")
        if added:
            sync(table / unquote(added["path"]))
    for path in (table, entry, log):
        sync(path)


def _failed(verb: str, table: str, error: Exception) -> str:
    said = reason_of(error)
    advice = "check the lake, its rights and space (`video2lora verify` names damaged files)"
    return f"catalog table {table}: cannot {verb} it ({said}); {advice}"
