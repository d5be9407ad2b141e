"""The catalog's benchmark: made-up lakes are like real ones, and both ways give the same rows."""

from pathlib import Path

import pytest

from benchmarks import _lake_rows, catalog
from benchmarks._catalog_questions import TABLES, Question, ask_plain, system_counts, write_plain
from benchmarks._lake_rows import commit, grow, put_files, rows_of, video_id
from storage.lake import Lake, open_lake

SIZES = catalog.Sizes(num_commits=3, rows_a_commit=6, small_commits=1, small_rows_a_commit=4)


@pytest.fixture
def grown(tmp_path: Path) -> Lake:
    lake = open_lake(tmp_path / "grown", create=True)
    files = put_files(lake)
    grow(lake, SIZES.num_commits, num_rows=SIZES.rows_a_commit, files=files)
    return lake


def test_what_is_grown_differs_from_what_is_committed_in_nothing_but_its_run(
    grown: Lake, tmp_path: Path
) -> None:
    lake = open_lake(tmp_path / "committed", create=True)
    files = put_files(lake)
    for unit in range(SIZES.num_commits):
        numbers = range(unit * SIZES.rows_a_commit, (unit + 1) * SIZES.rows_a_commit)
        commit(lake, unit, rows_of(numbers, files))
    for table in rows_of([0], files):
        names = [n for n in lake.table(table).column_names if n not in ("run_id", "created_at")]
        # A block of grown rows names the same adapter files again and again.
        names = [n for n in names if n not in ("adapter_sha256", "parents")]
        order = [(name, "ascending") for name in ("unit", "video_id")]
        found, expected = (
            each.table(table).select(names).sort_by(order).to_pylist() for each in (grown, lake)
        )
        assert found == expected, table
    assert grown.table("runs").num_rows == lake.table("runs").num_rows == SIZES.num_commits


def test_a_later_run_takes_over_nothing_from_the_grown_one(grown: Lake) -> None:
    commit(grown, 0, rows_of(range(2), put_files(grown)))
    assert grown.table("adapters").num_rows == SIZES.num_commits * SIZES.rows_a_commit + 2
    with pytest.raises(SystemExit, match="a lake of its own"):
        commit(grown, 0, rows_of(range(2), put_files(grown)))


def test_a_commit_is_measured_on_every_lake_and_judged_on_the_compacted_one(
    grown: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "UNITS_A_TURN", 1)
    lines, counts = catalog.commit_lines(tmp_path, grown, SIZES, num_pairs=1)
    names = {catalog.GROWN, catalog.COMPACTED, catalog.EMPTY}
    assert {line.slow for line in lines} == names - {catalog.EMPTY}
    assert set(counts) == names
    (verdict,) = catalog.judge(lines)
    assert verdict.found == lines[0].ratios[0]
    assert lines[0].slow == catalog.COMPACTED


def test_queries_are_asked_before_and_after_compaction(grown: Lake, tmp_path: Path) -> None:
    lines, counts = catalog.on_a_lake(tmp_path, "grown", grown, 18, num_pairs=1)
    rooms = ["18 rows in 3 files", "18 rows in 1 file"]
    assert [line.room for line in lines] == [room for room in rooms for _ in range(3)]
    assert [counts[room]["live_files"] for room in rooms] == [
        dict.fromkeys(TABLES, 3),
        dict.fromkeys(TABLES, 1),
    ]


def test_nothing_is_timed_where_rows_differ(
    grown: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Question(
        what="a count",
        sql="select count(*) as n from adapters",
        plain_sql="select count(*) + 1 as n from adapters",
    )
    monkeypatch.setattr(catalog, "questions", lambda video: [asked])
    plain = write_plain(grown, tmp_path / "plain")
    with pytest.raises(SystemExit, match=r"rows differ .*nothing was timed"):
        catalog.query_lines("here", grown, plain, video_id(0), num_pairs=1)


def test_the_systems_counts_see_what_is_read(grown: Lake, tmp_path: Path) -> None:
    plain = write_plain(grown, tmp_path / "plain")
    counted = system_counts(lambda: ask_plain(plain, "select * from adapters"))
    if counted:  # Linux
        assert counted["read_bytes"] > (plain / "adapters.parquet").stat().st_size / 2
        assert counted["reads"] > 0


def test_a_unit_is_as_large_as_the_pipelines() -> None:
    made = rows_of(range(_lake_rows.UNIT), [str(n) for n in range(_lake_rows.UNIT)])
    assert {len(rows) for rows in made.values()} == {64}
