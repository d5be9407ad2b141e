"""A lake: the one root where adapters, checkpoints, plans and the catalog live.

    ROOT/adapters/<sha256[:2]>/<sha256>.safetensors     ROOT/plans/<run_id>.parquet
    ROOT/checkpoints/<sha256>/                          ROOT/published/<run_id>.json
    ROOT/catalog/<table>/                               ROOT/catalog.duckdb (local lakes)
    ROOT/visual_tokens/                                 a cache (token_store.py)

The root is a local directory, or `s3://` with credentials from the environment.
"""

import re
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import fsspec
import pyarrow as pa

from storage import adapter_store, lookups, plans, query, views
from storage.adapter_store import AdapterStore
from storage.catalog import AsOf, Catalog
from storage.commit import Outcome, UnitCommitter, UnitRows
from storage.errors import LakeError
from storage.identity import canonical_json
from storage.manifest import Source, refuse_credentials
from storage.object_store import LocalObjectStore, ObjectStore
from storage.remote import (
    delta_options,
    file_system,
    is_remote,
    live_files,
    require_credentials,
)
from storage.s3_objects import S3ObjectStore
from storage.schemas import TABLES, Row
from storage.survey import Survey, SurveyRule

# What makes delta-rs panic or look elsewhere: brackets and the like, control characters, %20.
_UNSUPPORTED: Final = re.compile(r"[\[\]\\^|\x00-\x1f\x7f]|%[0-9A-Fa-f]{2}")
_S3_ROOT: Final = re.compile(r"s3://[A-Za-z0-9._-]+(/[A-Za-z0-9._=+-]+)*")


class Lake:
    """An open lake. One instance serves one thread, its `adapters` any number."""

    def __init__(
        self,
        *,
        uri: str,
        objects: ObjectStore,
        catalog: Catalog,
        filesystem: fsspec.AbstractFileSystem | None = None,
    ) -> None:
        """Put a lake together from its parts; `open_lake` is the usual way."""
        self.uri = uri
        self.filesystem = filesystem
        self._filesystem = filesystem
        self.adapters = AdapterStore(objects)
        self.catalog = catalog
        self.objects = objects
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

    def query(self, sql: str, *, as_of: AsOf | None = None) -> pa.Table:
        """Run one SELECT over the views of views.sql and return its rows.

        Args:
            sql: One SELECT or WITH statement; files outside the lake are out of its reach.
            as_of: A time, or a version per table; the lake as it was then.

        Raises:
            CatalogQueryError: the text is not one SELECT, or it failed; one line with the fix.
        """
        return query.run_query(
            sql,
            lambda: {table: self.catalog.file_uris(table, as_of=as_of) for table in TABLES},
            root=self.uri,
            filesystem=self._filesystem,
        )

    def versions(self) -> dict[str, int]:
        """Return the version of each table, which `query(as_of=...)` takes."""
        opened = {table: self.catalog.open_table(table) for table in TABLES}
        return {table: found.version() for table, found in opened.items() if found is not None}

    def publish_views(self) -> str | None:
        """Rebuild ROOT/catalog.duckdb over the live files and return its path; None on S3."""
        if is_remote(self.uri):
            return None
        path = Path(self.uri) / "catalog.duckdb"
        views.publish(path, {table: self.catalog.file_uris(table) for table in TABLES})
        return str(path)

    def get_plan(self, run_id: str) -> plans.StoredPlan:
        """Return a stored plan, its header checked against its run_id."""
        return plans.get_plan(self._objects, run_id)

    def new_plan(
        self,
        planned: Iterable[plans.PlannedSource],
        *,
        recipe_id: str,
        shard_cost: float,
        retry: plans.Retry | None = None,
        unit_segments: int | None = None,
    ) -> plans.StoredPlan:
        """Plan what is still to do, sorted by source_id, store the plan and return it.

        The same work gives the same run until that run is published; then the next generation.
        A plan without sources is not stored.
        """
        with tempfile.TemporaryDirectory(prefix="video2lora-") as folder:
            path = Path(folder) / "plan.parquet"
            header = plans.write_plan(
                path,
                planned,
                recipe_id=recipe_id,
                shard_cost=shard_cost,
                retry=retry,
                unit_segments=unit_segments,
                is_taken=self.is_published,
            )
            if header.num_sources:
                plans.put_plan(self._objects, header.run_id, path)
        return plans.StoredPlan(run_id=header.run_id, header=header, objects=self._objects)

    def survey(self, rule: SurveyRule) -> Survey:
        """Open a survey: what the catalog knows of a listing of any length."""
        files = {table: self.catalog.file_uris(table) for table in TABLES}
        return Survey(files, rule=rule, filesystem=self._filesystem)

    def done_segments(
        self,
        recipe_id: str,
        video_ids: Collection[str] | None = None,
        *,
        retried: tuple[str, Collection[str]] | None = None,
    ) -> dict[str, set[lookups.Span]]:
        """Return, by video_id, the (start_us, end_us) that need no more work under a recipe.

        `retried`, a run_id and reasons: for that run what others rejected so is not done.
        """
        return lookups.done_segments(self.catalog, recipe_id, video_ids, retried=retried)

    def known_videos(
        self, sources: Iterable[Source], recipe_id: str
    ) -> dict[str, lookups.KnownVideo]:
        """Return, by source_id, the videos read before from files that have not changed since."""
        return lookups.known_videos(self.catalog, sources, recipe_id)

    def deleted_videos(self) -> set[str]:
        """Return the video_ids that are deleted and stay so on a re-run."""
        return lookups.deleted_videos(self.catalog)

    def adapters_for(
        self,
        video_ids: Collection[str],
        recipe_id: str,
        *,
        columns: Collection[str] | None = None,
    ) -> dict[str, list[Row]]:
        """Return videos' adapter rows under a recipe, by video_id, in order of time.

        All in one scan: asked video by video, a corpus would cost the square of its size. With
        `columns`, rows hold those and what identifies an adapter.
        """
        return lookups.adapters_for(self.catalog, video_ids, recipe_id, columns=columns)

    def latest_recipe(self) -> tuple[str, dict[str, Any]]:
        """Return the id and the content of the recipe that closed a unit last."""
        return lookups.latest_recipe(self.catalog)

    def resolve_video(self, text: str) -> str:
        """Return the video_id meant by an id, its first digits, a URI, a file name or a given id.

        Raises:
            VideoUnknownError: nothing fits, or several videos do; near matches are listed.
            CredentialsError: the text is a URI that carries credentials.
        """
        refuse_credentials(text)
        return lookups.resolve_video(self.catalog, text)

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
    lake = _at(str(uri), create=create, storage_options=storage_options)
    if create:
        lake.catalog.create()
    elif not lake.catalog.exists():
        raise LakeError(
            f"{uri}: no lake here; check the path, or run `video2lora internalize` first"
        )
    return lake


def find_lake(uri: str | Path, *, storage_options: Mapping[str, str] | None = None) -> Lake | None:
    """Open a lake to read from; None where there is none yet."""
    lake = _at(str(uri), create=False, storage_options=storage_options)
    return lake if lake.catalog.exists() else None


def _at(uri: str, *, create: bool, storage_options: Mapping[str, str] | None) -> Lake:
    refuse_credentials(uri)
    return _remote(uri, storage_options) if is_remote(uri) else _local(Path(uri), create)


def _local(directory: Path, create: bool) -> Lake:
    root = directory.expanduser().absolute()
    found = _UNSUPPORTED.search(str(root))
    if found:
        raise LakeError(f"{root}: tables cannot live in a path with {found[0]!r}; rename it")
    try:
        if create:
            root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LakeError(f"{root}: cannot create the lake ({error.strerror}); check it") from error
    catalog = Catalog(str(root / "catalog"))
    return Lake(uri=str(root), objects=LocalObjectStore(root), catalog=catalog)


def _remote(uri: str, storage_options: Mapping[str, str] | None) -> Lake:
    root = uri.rstrip("/")
    if not _S3_ROOT.fullmatch(root):
        raise LakeError(
            f"{uri}: no lake can live here; give a directory, or s3://bucket/prefix of letters, "
            "digits and . _ - = +"
        )
    require_credentials(root, storage_options)
    objects = S3ObjectStore(root, file_system(root, storage_options))
    catalog = Catalog(
        f"{root}/catalog",
        storage_options=delta_options(storage_options),
        before_write=objects.require_conditional_create,
    )
    return Lake(uri=root, objects=objects, catalog=catalog, filesystem=live_files(storage_options))
