"""A lake: the one root where adapters, checkpoints, plans and the catalog live.

    ROOT/adapters/<sha256[:2]>/<sha256>.safetensors     ROOT/plans/<run_id>.parquet
    ROOT/checkpoints/<sha256>/                          ROOT/published/<run_id>.json
    ROOT/catalog/<table>/                               ROOT/catalog.duckdb (local lakes)

The root is a local directory, or `s3://` with credentials from the environment.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from storage import adapter_store
from storage.adapter_store import AdapterStore
from storage.catalog import Catalog
from storage.commit import Outcome, UnitCommitter, UnitRows
from storage.errors import LakeError
from storage.identity import canonical_json
from storage.object_store import LocalObjectStore, ObjectStore
from storage.schemas import Row


class Lake:
    """An open lake. One instance serves one thread, its `adapters` any number."""

    def __init__(self, *, uri: str, objects: ObjectStore, catalog: Catalog) -> None:
        """Put a lake together from its parts; `open_lake` is the usual way."""
        self.uri = uri
        self.adapters = AdapterStore(objects)
        self.catalog = catalog
        self._objects = objects
        self._committer = UnitCommitter(catalog, self.adapters)

    def put_checkpoint(self, sha256: str, files: Mapping[str, bytes]) -> None:
        """Publish a checkpoint's files under its sha256; the same files again change nothing."""
        adapter_store.put_checkpoint(self._objects, sha256, files)

    def get_checkpoint(self, sha256: str) -> dict[str, bytes]:
        """Return a checkpoint's files, each checked against its sha256."""
        return adapter_store.get_checkpoint(self._objects, sha256)

    def commit_unit(
        self, *, run_id: str, shard: int, unit: int, rows: UnitRows, common: Row | None = None
    ) -> Outcome:
        """Commit a unit's rows, each table exactly once, adapters first and the closing row last.

        `rows["adapters"]` are rows whose files are already put. Every other table's rows are given
        as rows, or as a function of the adapter rows that this unit really has: after a crash these
        are the earlier attempt's, so whatever names an adapter (compositions) or depends on there
        being one (segments, rejects) must be a function. A segment that this attempt made but the
        earlier one did not commit becomes a reject with `is_terminal` false: the next run takes it.
        `common` fills columns in every row of the unit: recipe_id, attempt_id, worker,
        code_version, recipe. `rows["runs"]` may hold one row with more columns of the closing row.

        Returns:
            "already" where this unit was closed before, by this process or another.

        Raises:
            UnitOrderError: an elder unit of the shard is not committed, or the rows contradict
                what an earlier attempt committed.
            RowError: a row does not fit its table.
            ObjectMissingError: an adapter's file is not there.
        """
        return self._committer.commit(
            run_id=run_id, shard=shard, unit=unit, rows=rows, common=common or {}
        )

    def next_unit(self, run_id: str, shard: int) -> int:
        """Return the number of the first unit of a shard that is not closed."""
        return self.catalog.committed("runs", f"{run_id}:{shard}") + 1

    def append(
        self, table: str, rows: Sequence[Row], *, transaction: tuple[str, int] | None = None
    ) -> bool:
        """Append rows to a table, exactly once where a transaction (app id, number) is given."""
        return self.catalog.append(table, rows, transaction=transaction)

    def table(self, name: str) -> pa.Table:
        """Return the live rows of a table, as written."""
        return self.catalog.read(name)

    def mark_published(self, run_id: str, payload: Mapping[str, Any]) -> bool:
        """Mark a run as published; True for the one caller who was first."""
        name = f"published/{run_id}.json"
        return self._objects.create(name, canonical_json(dict(payload)).encode())

    def is_published(self, run_id: str) -> bool:
        """Say whether a run was published."""
        return self._objects.exists(f"published/{run_id}.json")


def open_lake(
    uri: str | Path, *, create: bool = False, storage_options: Mapping[str, str] | None = None
) -> Lake:
    """Open a lake, or create it.

    Args:
        uri: A directory, or `s3://bucket/prefix`.
        create: Make the lake where there is none.
        storage_options: AWS_* settings for S3, over those of the environment.

    Raises:
        LakeError: there is no lake and `create` is false, or the root cannot be used.
    """
    root = Path(uri).expanduser().absolute()
    catalog = Catalog(str(root / "catalog"), storage_options=storage_options)
    lake = Lake(uri=str(root), objects=LocalObjectStore(root), catalog=catalog)
    if create:
        root.mkdir(parents=True, exist_ok=True)
        catalog.create()
    elif not catalog.exists():
        raise LakeError(
            f"{uri}: no lake here; check the path, or run `video2lora internalize` first"
        )
    return lake
