"""A survey: a listing of any length laid against the catalog, in bounded memory.

The listing goes to a Parquet file in a temporary folder, and DuckDB joins it there with the
catalog's tables (survey.sql), spilling to that folder what exceeds its memory. So a plan costs a
fixed number of scans of the catalog, not some per group of sources. Nothing of the lake is changed.
"""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import CatalogError, reason_of
from storage.manifest import Source, look_at
from storage.plans import Retry
from storage.views import Files, create_views

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "preserve_insertion_order": False,
    "memory_limit": "256MB",
    "threads": 2,
}
_LISTED: Final = pa.schema(
    [
        ("source_id", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("version_token", pa.string()),
        ("given_id", pa.string()),
        ("metadata", pa.string()),
        ("corpus", pa.string()),
        ("duration_us", pa.int64()),
    ]
)
_ROWS_AT_ONCE: Final = 8192
# A source that is listed twice counts once; which of the two does not depend on their order.
_ONCE: Final = """CREATE TABLE listed AS SELECT * FROM read_parquet($path)
QUALIFY row_number() OVER (PARTITION BY source_id ORDER BY
    size_bytes, version_token, given_id, metadata, corpus, duration_us) = 1"""

# What a manifest said of a file stays with it when the catalog lists it again.
_SAID: Final = """SELECT source_id, arg_max(
        {'given_id': given_id, 'metadata': metadata, 'corpus': corpus}, created_at
    ) AS said
    FROM raw.sources GROUP BY source_id"""
_REJECTED: Final = f"""SELECT r.uri, said.given_id, said.metadata, said.corpus
    FROM (
        SELECT DISTINCT source_id, uri FROM open_rejects
        WHERE recipe_id = getvariable('recipe_id') AND uri IS NOT NULL
            AND CASE WHEN len($reasons) = 0 THEN NOT is_terminal
                ELSE list_contains($reasons, reason) END
    ) AS r LEFT JOIN ({_SAID}) AS s ON s.source_id = r.source_id"""
_READ: Final = f"""SELECT r.row.uri, r.row.size_bytes, r.row.version_token,
        said.given_id, said.metadata, said.corpus
    FROM (
        SELECT source_id, arg_max(
            {{'uri': uri, 'size_bytes': size_bytes, 'version_token': version_token}}, created_at
        ) AS row
        FROM raw.sources
        WHERE video_id IS NOT NULL AND video_id NOT IN (SELECT video_id FROM deleted_videos)
        GROUP BY source_id
    ) AS r JOIN ({_SAID}) AS s ON s.source_id = r.source_id"""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyRule:
    """What a listing is looked at for."""

    recipe_id: str
    segment_us: int
    min_tail_us: int
    retry: Retry | None = None
    """Given where every source is to do that is not deleted, whatever was rejected or done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SurveyedSource:
    """A source of which something is still to do."""

    source: Source
    video_id: str | None
    """None where these very bytes were never read."""
    num_segments: int | None
    """Segments of the video, done ones included; None where nothing tells its length."""


class Survey:
    """One listing under one recipe; use it as a context manager."""

    def __init__(
        self, files: Files, *, rule: SurveyRule, filesystem: fsspec.AbstractFileSystem | None = None
    ) -> None:
        """Open a scratch database with views over `files`, the live files of each table."""
        self._folder = tempfile.TemporaryDirectory(prefix="video2lora-")
        self._path = Path(self._folder.name)
        settings = {**_SETTINGS, "temp_directory": str(self._path / "spilled")}
        self._connection = duckdb.connect(str(self._path / "survey.duckdb"), config=settings)
        # A bar for what takes seconds would be drawn into the caller's standard output.
        self._run("SET enable_progress_bar = false")
        if filesystem is not None:
            self._connection.register_filesystem(filesystem)
        create_views(self._connection, files)
        for name, value in (
            ("recipe_id", rule.recipe_id),
            ("segment_us", rule.segment_us),
            ("min_tail_us", rule.min_tail_us),
            ("is_retry", rule.retry is not None),
            ("reasons", list(rule.retry.reasons) if rule.retry else []),
        ):
            self._run(f"SET VARIABLE {name} = $value", {"value": value})

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the scratch database."""
        self._connection.close()
        self._folder.cleanup()

    def take(self, sources: Iterable[Source]) -> None:
        """Take the listing, once, and look it up."""
        path = self._path / "listed.parquet"
        with pq.ParquetWriter(path, _LISTED) as writer:
            rows = iter(sources)
            while group := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                columns = {name: [getattr(s, name) for s in group] for name in _LISTED.names}
                writer.write_table(pa.table(columns, schema=_LISTED))
        self._run(_ONCE, {"path": str(path)})
        path.unlink()
        for statement in self._connection.extract_statements(_survey_sql()):
            self._run(statement)

    def num_sources(self) -> int:
        """Return how many sources the listing has; one that is listed twice counts once."""
        return int(next(self.rows("SELECT count(*) AS num FROM listed"))["num"])

    def todo(self, *, order: str = "source_id") -> Iterator[SurveyedSource]:
        """Stream what is still to do, sorted by `source_id` or by `video_id`."""
        return self._sources(f"status IN ('new', 'retry') ORDER BY {order}, uri")

    def settled(self) -> Iterator[Source]:
        """Stream the sources of which nothing is to do."""
        found = self._sources("status NOT IN ('new', 'retry')")
        return (surveyed.source for surveyed in found)

    def rejected(self, reasons: Sequence[str]) -> Iterator[Source]:
        """Stream the sources with open rejects, as their files are now.

        Without reasons, those that a later try may cure; else those of the reasons, cure or not.
        """
        found = self.rows(_REJECTED, reasons=list(reasons))
        return look_at(Source(**row) for row in found)

    def catalog_sources(self) -> Iterator[Source]:
        """Stream every source that a video was read from, as it was then; no deleted video's."""
        return (Source(**row) for row in self.rows(_READ))

    def rows(self, sql: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """Stream the rows of a query over the views, `listed` and `surveyed`; one at a time."""
        with _asking():
            for rows in self._connection.sql(sql, params=parameters).to_arrow_reader(_ROWS_AT_ONCE):
                yield from rows.to_pylist()

    def _sources(self, where: str) -> Iterator[SurveyedSource]:
        names = [name for name in _LISTED.names if name not in ("source_id", "duration_us")]
        for row in self.rows(
            f"SELECT {', '.join(names)}, given_us AS duration_us, video_id, num_segments "
            f"FROM surveyed WHERE {where}"
        ):
            video_id, num_segments = row.pop("video_id"), row.pop("num_segments")
            yield SurveyedSource(source=Source(**row), video_id=video_id, num_segments=num_segments)

    def _run(self, sql: str | duckdb.Statement, parameters: dict[str, Any] | None = None) -> None:
        with _asking():
            self._connection.execute(sql, parameters)


@contextmanager
def _asking() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise CatalogError(
            f"catalog: cannot look up the corpus ({reason_of(error)}); check the lake, and the "
            "space for temporary files"
        ) from error


def _survey_sql() -> str:
    return Path(__file__).with_name("survey.sql").read_text(encoding="utf-8")
