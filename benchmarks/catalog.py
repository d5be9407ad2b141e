"""The catalog: what a commit costs when it has grown, and a query beside one plain Parquet file.

    .venv/bin/python -m benchmarks.catalog --pairs 5

Commits are the product's (`Lake.commit_unit`): a unit of 64 rows per table goes to an empty lake
and to one with 500 earlier commits, in turns, ten units a turn, because the log is summed up at
every tenth commit. The first commit of a lake just opened is a line of its own: it reads the log.

Queries are `Lake.query` over the views, on 1,000 rows, on 100,000 rows in 500 files and on the same
after `compact`. Beside each stands what anybody would write: one Parquet file per table with the
same rows and a plain SELECT in a fresh DuckDB. The views choose among repeated rows and leave
deleted videos out; the plain form knows that there are none. Both must return the same rows.

Seconds are CPU seconds of all threads of this process. Bytes and calls of reading and writing are
the system's counts for this process (/proc/self/io, Linux only). Bars: a commit at most 1.5 times
the empty lake's; after `compact` a query at most 3 times the plain file's.
"""

import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks._lake_rows import RECIPE_ID, UNIT, commit, grow, put_files, rows_of, video_id
from benchmarks._pairs import surroundings
from benchmarks._turns import Line, Way, lines, turns_table
from benchmarks._verdict import Verdict, at_most, finish, make_parser
from storage.compaction import compact
from storage.lake import Lake, open_lake

UNITS_A_TURN = 10
TABLES = ("adapters", "sources", "compositions")
EMPTY, GROWN = "an empty lake", "a grown lake"
LAKE, PLAIN = "the lake's views", "one Parquet file"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How large the lakes are."""

    num_commits: int
    """Commits of the grown lake."""
    rows_a_commit: int
    """Rows of each of them, per table."""
    small_commits: int
    """Commits of the small lake."""
    small_rows_a_commit: int
    """Rows of each of them, per table."""


FULL = Sizes(num_commits=500, rows_a_commit=200, small_commits=16, small_rows_a_commit=64)
QUICK = Sizes(num_commits=4, rows_a_commit=8, small_commits=2, small_rows_a_commit=4)


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


def commit_lines(
    folder: Path, grown: Lake, sizes: Sizes, *, num_pairs: int
) -> tuple[list[Line], dict[str, Any]]:
    """Commit units to both lakes in turns: as a shard at work, and from a lake just opened."""
    empty = open_lake(folder / "empty", create=True)
    copied = open_lake(shutil.copytree(grown.uri, folder / "copied"))
    rows = rows_of(range(UNIT), put_files(empty))
    put_files(copied)
    room = f"{sizes.num_commits} earlier commits"
    next_unit = {empty.uri: 0, copied.uri: 0}

    def way(lake: Lake, count: int, *, is_reopened: bool) -> tuple[Way, int]:
        def run() -> None:
            used = open_lake(lake.uri) if is_reopened else lake
            for _ in range(count):
                commit(used, next_unit[lake.uri], rows)
                next_unit[lake.uri] += 1

        run()  # the first look at the tables belongs to no turn
        return run, count

    made: list[Line] = []
    for what, count, is_reopened in (
        ("a unit, by a shard at work", UNITS_A_TURN, False),
        ("the first unit after the lake was opened", 1, True),
    ):
        ways = {
            GROWN: way(copied, count, is_reopened=is_reopened),
            EMPTY: way(empty, count, is_reopened=is_reopened),
        }
        made += lines(room, what, ways, [(GROWN, EMPTY)], num_pairs=num_pairs)
    run = {
        name: way(lake, 1, is_reopened=False)[0] for name, lake in ((GROWN, copied), (EMPTY, empty))
    }
    return made, {name: system_counts(each) for name, each in run.items()}


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


def query_lines(room: str, lake: Lake, plain: Path, video: str, *, num_pairs: int) -> list[Line]:
    """Ask both for the same rows, in turns."""
    made: list[Line] = []
    for asked in questions(video):

        def from_lake(sql: str = asked.sql) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = lake.query(sql).to_pylist()
            return rows

        def from_file(sql: str = asked.plain_sql) -> list[dict[str, Any]]:
            return ask_plain(plain, sql)

        found, expected = from_lake(), from_file()
        if found != expected or not found:
            raise SystemExit(
                f"{room}, {asked.what}: rows differ (found {len(found)}, expected "
                f"{len(expected)}); nothing was timed: correct ours first"
            )
        ways: dict[str, tuple[Way, int]] = {LAKE: (from_lake, 1), PLAIN: (from_file, 1)}
        made += lines(room, asked.what, ways, [(LAKE, PLAIN)], num_pairs=num_pairs)
    return made


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


def query_counts(lake: Lake, plain: Path, video: str) -> dict[str, Any]:
    """Count live files, and what each question reads, both ways."""
    return {
        "live_files": {table: len(lake.catalog.file_uris(table)) for table in TABLES},
        "questions": {
            asked.what: {
                LAKE: system_counts(lambda sql=asked.sql: lake.query(sql)),  # type: ignore[misc]
                PLAIN: system_counts(lambda sql=asked.plain_sql: ask_plain(plain, sql)),  # type: ignore[misc]
            }
            for asked in questions(video)
        },
    }


def on_a_lake(
    folder: Path, name: str, lake: Lake, num_rows: int, *, num_pairs: int
) -> tuple[list[Line], dict[str, Any]]:
    """Ask before and after `compact`."""
    plain = write_plain(lake, folder / f"plain {name}")
    video = video_id(num_rows // 2)
    made: list[Line] = []
    counts: dict[str, Any] = {}
    for is_compacted in (False, True):
        if is_compacted:
            compact(lake.catalog, lake.objects, history=timedelta(0))
        files = len(lake.catalog.file_uris("adapters"))
        room = f"{num_rows:,} rows in {files} file{'s' * (files > 1)}"
        made += query_lines(room, lake, plain, video, num_pairs=num_pairs)
        counts[room] = query_counts(lake, plain, video)
    return made, counts


def judge(commits: Sequence[Line], compacted: Sequence[Line]) -> list[Verdict]:
    def of(line: Line, what: str, bar: float) -> Verdict:
        shown = f"{min(line.ratios):.2f} - {max(line.ratios):.2f}; {line.fast} "
        shown += f"{1e3 * line.fast_s:.0f} ms"
        return at_most(what, statistics.median(line.ratios), bar, detail=shown)

    worst = max(compacted, key=lambda line: statistics.median(line.ratios))
    return [
        of(commits[0], f"a commit after {commits[0].room}, over one to an empty lake", 1.5),
        of(worst, f"{worst.subject}, {worst.room}, over one plain file (the worst)", 3.0),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = make_parser("Time commits and queries of the catalog.", num_pairs=5).parse_args(
        arguments
    )
    here = surroundings()
    sizes = QUICK if options.quick else FULL
    made: list[Line] = []
    counts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, grown = (open_lake(folder / each, create=True) for each in ("small", "grown"))
        files = put_files(grown)
        grow(small, sizes.small_commits, num_rows=sizes.small_rows_a_commit, files=files)
        grow(grown, sizes.num_commits, num_rows=sizes.rows_a_commit, files=files)
        commits, counts["commit"] = commit_lines(folder, grown, sizes, num_pairs=options.pairs)
        for each, lake, num_rows in (
            ("small", small, sizes.small_commits * sizes.small_rows_a_commit),
            ("grown", grown, sizes.num_commits * sizes.rows_a_commit),
        ):
            found, counts[each] = on_a_lake(folder, each, lake, num_rows, num_pairs=options.pairs)
            made += found
    Console(width=180).print(turns_table([*commits, *made]))
    measured = here | {
        "shape": asdict(sizes) | {"unit_rows": UNIT},
        "lines": [line.row() for line in [*commits, *made]],
        "counts": counts,
    }
    verdicts = judge(commits, made[-len(questions("")) :])
    finish(measured, verdicts, out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
