"""The catalog: what a commit costs when it has grown, and a query beside one plain Parquet file.

    .venv/bin/python -m benchmarks.catalog --pairs 5

Commits are the product's (`Lake.commit_unit`): a unit of 64 rows per table goes to an empty lake,
to one with 250 earlier commits and to that one compacted, in turns; ten units a turn, because the
log is summed up at every tenth commit. A shard's first unit is a line of its own: it reads the log,
and looks for what dead runs have left.

Queries are `Lake.query` over the views, on 1,000 rows, on 100,000 rows in 250 files and on the same
after `compact`. Beside each stands what anybody would write (`_catalog_questions.py`): one Parquet
file per table with the same rows and a plain SELECT in a fresh DuckDB. Both must return the same
rows. The views look for repeated rows and deleted videos; making them costs the same at any size.

Seconds are CPU seconds of all threads of this process. Bytes and calls of reading and writing are
the system's counts for this process (/proc/self/io, Linux only). Bar: a commit to the compacted
lake at most 1.5 times one to the empty lake.
"""

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks._catalog_questions import (
    TABLES,
    ask_plain,
    questions,
    system_counts,
    write_plain,
)
from benchmarks._lake_rows import UNIT, commit, grow, put_files, rows_of, video_id
from benchmarks._pairs import surroundings
from benchmarks._turns import Line, Way, lines, turns_table
from benchmarks._verdict import Verdict, at_most, finish, make_parser
from storage.compaction import compact
from storage.lake import Lake, open_lake

UNITS_A_TURN = 10
EMPTY, GROWN, COMPACTED = "an empty lake", "a grown lake", "a grown lake, compacted"
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


FULL = Sizes(num_commits=250, rows_a_commit=400, small_commits=16, small_rows_a_commit=64)
QUICK = Sizes(num_commits=4, rows_a_commit=8, small_commits=2, small_rows_a_commit=4)


def commit_lines(
    folder: Path, grown: Lake, sizes: Sizes, *, num_pairs: int
) -> tuple[list[Line], dict[str, Any]]:
    """Commit units to all lakes in turns: as a shard at work, and from a lake just opened."""
    lakes = {
        GROWN: open_lake(shutil.copytree(grown.uri, folder / "copied")),
        COMPACTED: open_lake(shutil.copytree(grown.uri, folder / "compacted")),
        EMPTY: open_lake(folder / "empty", create=True),
    }
    compact(lakes[COMPACTED].catalog, lakes[COMPACTED].objects, history=timedelta(0))
    for lake in lakes.values():
        rows = rows_of(range(UNIT), put_files(lake))
    next_unit = dict.fromkeys(lakes, 0)

    def way(name: str, count: int, *, is_reopened: bool) -> tuple[Way, int]:
        def run() -> None:
            used = open_lake(lakes[name].uri) if is_reopened else lakes[name]
            for _ in range(count):
                commit(used, next_unit[name], rows)
                next_unit[name] += 1

        run()  # the first look at the tables belongs to no turn
        return run, count

    made: list[Line] = []
    room = f"{sizes.num_commits} earlier commits"
    for what, count, is_reopened in (
        ("a unit, by a shard at work", UNITS_A_TURN, False),
        ("a shard's first unit", 1, True),
    ):
        ways = {name: way(name, count, is_reopened=is_reopened) for name in lakes}
        pairs_of = [(COMPACTED, EMPTY), (GROWN, EMPTY)]
        made += lines(room, what, ways, pairs_of, num_pairs=num_pairs)
    once = {name: way(name, 1, is_reopened=False)[0] for name in lakes}
    return made, {name: system_counts(run) for name, run in once.items()}


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


def judge(commits: Sequence[Line]) -> list[Verdict]:
    """Judge a commit to the compacted lake; the rest has no bar."""
    line = commits[0]
    shown = f"{min(line.ratios):.2f} - {max(line.ratios):.2f}; {1e3 * line.fast_s:.0f} ms there"
    what = f"a commit after {line.room}, compacted, over one to an empty lake"
    return [at_most(what, statistics.median(line.ratios), 1.5, detail=shown)]


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
    finish(measured, judge(commits), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
