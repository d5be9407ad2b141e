"""What the catalog's benchmark asks: of the views, and of one plain Parquet file per table.

The plain form is what anybody would write: each table one file, a SELECT in a DuckDB of its own. It
knows that no row is there twice and no video deleted, which the views have to find out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from benchmarks._lake_rows import RECIPE_ID
from storage.lake import Lake

TABLES = ("adapters", "sources", "compositions")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """The same question asked of the views and of plain files."""

    what: str
    """What is asked."""
    sql: str
    """Over the views."""
    plain_sql: str
    """Over `<table>`, a plain file each; no duplicates, nothing deleted."""


def questions(video: str) -> list[Question]:
    """Return what is asked; the video is in the middle of the corpus."""
    columns = "adapter_key, adapter_sha256, start_us, end_us"
    of_video = f"where video_id = '{video}' and recipe_id = '{RECIPE_ID}'"
    composed = f"select composition_id, parents, rank from {{}} {of_video}"
    joined = (
        "select s.corpus, count(*) as num_adapters, sum(a.size_bytes) as size_bytes "
        "from {} as a join sources as s on s.video_id = a.video_id group by all order by all"
    )
    return [
        Question(
            what="a video's adapters",
            sql=f"select {columns} from adapters_latest {of_video} order by start_us",
            plain_sql=f"select {columns} from adapters {of_video} order by start_us",
        ),
        Question(
            what="adapters and bytes by corpus",
            sql=joined.format("adapters_latest"),
            plain_sql=joined.format("adapters"),
        ),
        Question(
            what="a video's latest composition",
            sql=composed.format("compositions_latest"),
            plain_sql=composed.format("compositions") + " order by num_segments desc limit 1",
        ),
    ]


def write_plain(lake: Lake, folder: Path) -> Path:
    """Write each table that is asked about as one Parquet file."""
    folder.mkdir()
    for table in TABLES:
        pq.write_table(lake.table(table), folder / f"{table}.parquet")
    return folder


def ask_plain(folder: Path, sql: str) -> list[dict[str, Any]]:
    """Run a SELECT over plain files in a DuckDB of its own."""
    with duckdb.connect() as connection:
        for table in TABLES:
            path = folder / f"{table}.parquet"
            connection.execute(f"create view {table} as select * from read_parquet('{path}')")
        rows: list[dict[str, Any]] = connection.sql(sql).to_arrow_table().to_pylist()
    return rows


def system_counts(run: Callable[[], object]) -> dict[str, int]:
    """Count what the process reads and writes meanwhile; nothing where no system tells it."""
    source = Path("/proc/self/io")
    if not source.is_file():
        run()
        return {}

    def read() -> dict[str, int]:
        pairs = (line.split(": ") for line in source.read_text(encoding="utf-8").splitlines())
        return {name: int(value) for name, value in pairs}

    before = read()
    run()
    after = read()
    shown = {"rchar": "read_bytes", "wchar": "written_bytes", "syscr": "reads", "syscw": "writes"}
    return {name: after[key] - before[key] for key, name in shown.items()}
