"""An overview: what is going on in a lake, asked of its catalog while runs go on.

Each look reads the tables as they are at one moment into a DuckDB of its own (overview.sql), so it
works on a disk and on `s3://`, disturbs nobody and sees only what is committed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import fsspec

from storage.errors import CatalogError, reason_of
from storage.lake import Lake
from storage.schemas import TABLES
from storage.views import Files, create_views

_SETTINGS: Final[dict[str, str | bool | int | float | list[str]]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "memory_limit": "512MB",
    "threads": 2,
}


class Overview:
    """One look at a lake; use it as a context manager."""

    def __init__(
        self,
        files: Files,
        *,
        run: str = "",
        filesystem: fsspec.AbstractFileSystem | None = None,
    ) -> None:
        """Look at `files`, the live files of each table; `run` is the first digits of a run_id."""
        self._connection = duckdb.connect(config=_SETTINGS)
        self._run("SET enable_progress_bar = false")
        if filesystem is not None:
            self._connection.register_filesystem(filesystem)
        try:
            create_views(self._connection, files)
            self._run("SET VARIABLE run_prefix = $run", {"run": run})
            for statement in self._connection.extract_statements(_sql()):
                self._run(statement)
        except (duckdb.Error, OSError) as error:
            raise CatalogError(_failed(error)) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget what was read."""
        self._connection.close()

    def runs(self, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the runs, the newest first."""
        return self._rows(
            "SELECT * FROM seen_runs ORDER BY planned_us DESC, run_id LIMIT $n", limit
        )

    def shards(self) -> list[dict[str, Any]]:
        """Return the shards that have committed something."""
        return self._rows("SELECT * FROM seen_shards ORDER BY run_id, shard LIMIT $n", 100_000)

    def rejects(self) -> list[dict[str, Any]]:
        """Return the reasons of rejects: of a run all it met, of a lake those that are open."""
        return self._rows("SELECT * FROM seen_rejects ORDER BY num_rejects DESC, reason LIMIT $n")

    def size(self) -> dict[str, Any]:
        """Return how many videos and adapters the lake holds, and the adapters' bytes."""
        return self._rows("SELECT * FROM seen_size LIMIT $n")[0]

    def units(self) -> list[dict[str, Any]]:
        """Return the closed units in the order in which they were closed."""
        return self._rows(
            "SELECT shard, unit, began_us, at_us, num_segments, num_rejects, covered_us, device_s,"
            " decode_s, wall_s FROM units ORDER BY at_us, shard, unit LIMIT $n",
            100_000,
        )

    def slowest_videos(self, *, limit: int = 10) -> list[dict[str, Any]]:
        """Return the videos that took longest to decode."""
        return self._rows("SELECT * FROM seen_videos ORDER BY decode_s DESC, uri LIMIT $n", limit)

    def lengths(self) -> list[dict[str, Any]]:
        """Return how long segments are, by outcome."""
        return self._rows("SELECT * FROM seen_lengths ORDER BY outcome LIMIT $n")

    def reject_examples(self, *, per_reason: int = 3) -> list[dict[str, Any]]:
        """Return some rejects of each reason."""
        return self._rows(
            "SELECT reason, coalesce(uri, video_id) AS what, start_us, detail, attempt, is_terminal"
            " FROM shown_rejects"
            " QUALIFY row_number() OVER (PARTITION BY reason ORDER BY created_at, uri) <= $n"
            " ORDER BY reason, what",
            per_reason,
        )

    def answers(self, *, limit: int = 24) -> list[dict[str, Any]]:
        """Return the last answers, those from adapters first, in the order of their videos."""
        return self._rows(
            "SELECT * FROM (SELECT * FROM seen_answers"
            " ORDER BY mode = 'adapter' DESC NULLS LAST, at_us DESC, answer_id LIMIT $n)"
            " ORDER BY uri, video_id, question, mode, answer_id",
            limit,
        )

    def spans(self, adapters: list[str]) -> dict[str, tuple[int, int]]:
        """Return the span of each of these adapters, by adapter_sha256."""
        found = self._rows(
            "SELECT adapter_sha256, any_value(start_us) AS start_us, any_value(end_us) AS end_us"
            " FROM adapters WHERE list_contains($shas, adapter_sha256) GROUP BY 1 LIMIT $n",
            max(1, len(adapters)),
            shas=adapters,
        )
        return {row["adapter_sha256"]: (row["start_us"], row["end_us"]) for row in found}

    def source(self, video_id: str) -> dict[str, Any] | None:
        """Return where a video was last found, as its file was then."""
        found = self._rows(
            "SELECT uri, size_bytes, version_token FROM videos WHERE video_id = $id LIMIT $n",
            id=video_id,
        )
        return found[0] if found else None

    def _rows(self, sql: str, n: int = 1000, **parameters: Any) -> list[dict[str, Any]]:
        try:
            found = self._connection.sql(sql, params={"n": n, **parameters})
            return [dict(row) for row in found.to_arrow_table().to_pylist()]
        except duckdb.Error as error:
            raise CatalogError(_failed(error)) from error

    def _run(self, sql: str | duckdb.Statement, values: Mapping[str, Any] | None = None) -> None:
        self._connection.execute(sql, dict(values) if values else None)


def look_at(lake: Lake, *, run: str = "") -> Overview:
    """Look at a lake as it is now; `run` is the first digits of the run that is meant.

    Raises:
        CatalogError: its tables cannot be read.
    """
    files = {table: lake.catalog.file_uris(table) for table in TABLES}
    return Overview(files, run=run, filesystem=lake.filesystem)


def _failed(error: BaseException) -> str:
    return (
        f"catalog: cannot look at the runs ({reason_of(error)}); `video2lora verify` names every"
        " fault"
    )


def _sql() -> str:
    return Path(__file__).with_name("overview.sql").read_text(encoding="utf-8")
