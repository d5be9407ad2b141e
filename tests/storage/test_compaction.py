"""Compaction changes how many files there are, and nothing else, while writers go on."""

import multiprocessing
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.compaction import compact
from storage.errors import LakeError
from storage.keeper import Keeper
from storage.lake import Lake, open_lake
from storage.object_store import LocalObjectStore
from storage.turns import LASTS_S, taken_turn

ROW: dict[str, Any] = {"video_id": "v", "is_deleted": True}


def fill(lake: Lake, num_commits: int, *, first: int = 0, app_id: str = "app") -> None:
    for number in range(first, first + num_commits):
        row = {**ROW, "sequence": number}
        assert lake.append("tombstones", [row], transaction=(app_id, number))


def figures(lake: Lake, *, is_dry_run: bool = False, **options: Any) -> tuple[int, int, int]:
    tables = Keeper(lake).compact(is_dry_run=is_dry_run, **options)
    found = next(table for table in tables if table.table == "tombstones")
    return found.num_files, found.num_files_after, found.num_rows


def test_many_files_become_one_and_the_rows_stay(lake: Lake) -> None:
    fill(lake, 12)
    before = lake.table("tombstones").sort_by("sequence").to_pylist()
    assert figures(lake, is_dry_run=True) == (12, 1, 12)
    assert len(lake.catalog.file_uris("tombstones")) == 12
    assert figures(lake) == (12, 1, 12)
    assert figures(lake) == (1, 1, 12)
    assert lake.table("tombstones").sort_by("sequence").to_pylist() == before
    assert len(lake.query("from deleted_videos")) == 1


def test_what_was_committed_once_stays_so_when_the_log_is_cut(lake: Lake) -> None:
    fill(lake, 25)
    figures(lake, history=timedelta(0))
    log = Path(lake.uri) / "catalog" / "tombstones" / "_delta_log"
    assert len(list(log.glob("*.json"))) == 1
    for reader in (lake, open_lake(lake.uri)):
        assert reader.catalog.committed("tombstones", "app") == 24
        assert not reader.append("tombstones", [{**ROW, "sequence": 9}], transaction=("app", 24))
    fill(lake, 1, first=25)
    assert lake.table("tombstones").num_rows == 26


def test_versions_of_the_last_days_can_still_be_read(lake: Lake) -> None:
    fill(lake, 3)
    version = lake.versions()["tombstones"]
    figures(lake)
    fill(lake, 2, first=3)
    then = lake.query("select count(*) as n from raw.tombstones", as_of={"tombstones": version})
    assert then.to_pylist() == [{"n": 3}]


def test_of_two_compactions_one_waits_for_its_turn(lake: Lake) -> None:
    fill(lake, 3)
    objects = LocalObjectStore(Path(lake.uri))
    with (
        taken_turn(objects, "compact"),
        pytest.raises(LakeError, match="another process is doing compact"),
    ):
        Keeper(lake).compact()
    assert figures(lake) == (3, 1, 3)


def test_two_compactions_at_the_same_moment_do_not_double_a_row(lake: Lake) -> None:
    fill(lake, 8)
    refused: list[str] = []
    start = threading.Barrier(3)

    def run() -> None:
        own = open_lake(lake.uri)
        start.wait()
        try:
            Keeper(own).compact()
        except LakeError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) <= 2
    assert lake.table("tombstones").num_rows == 8


def test_a_turn_of_a_dead_process_runs_out(tmp_path: Path) -> None:
    objects = LocalObjectStore(tmp_path)
    clock = [0.0]
    dead = taken_turn(objects, "compact", clock=lambda: clock[0])
    turn = dead.__enter__()
    turn.require()
    clock[0] = LASTS_S / 2 + 1
    with pytest.raises(LakeError, match="takes too long"):
        turn.require()
    with pytest.raises(LakeError, match="another process"):
        taken_turn(objects, "compact", clock=lambda: clock[0]).__enter__()
    clock[0] = LASTS_S + 1
    with taken_turn(objects, "compact", clock=lambda: clock[0]) as taken:
        taken.require()
    with taken_turn(objects, "compact", clock=lambda: clock[0]):
        pass


def append_rows(root: str, app_id: str, num_commits: int) -> None:
    fill(open_lake(root), num_commits, app_id=app_id)


def test_writers_and_compactions_do_not_disturb_each_other(tmp_path: Path) -> None:
    lake = open_lake(tmp_path, create=True)
    # Spawned: delta-rs' runtime does not survive a fork.
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=append_rows, args=(str(tmp_path), app_id, 40)) for app_id in "ab"
    ]
    for writer in writers:
        writer.start()
    num_compactions = 0
    while any(writer.is_alive() for writer in writers):
        compact(lake.catalog, lake.objects)
        num_compactions += 1
    for writer in writers:
        writer.join(timeout=120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert num_compactions > 1
    seen = Counter(lake.table("tombstones")["sequence"].to_pylist())
    assert seen == dict.fromkeys(range(40), 2)
    assert [lake.catalog.committed("tombstones", app_id) for app_id in "ab"] == [39, 39]


def test_the_views_file_of_a_compacted_lake_is_not_stale(
    lake: Lake, rows: Any, commit: Callable[..., str]
) -> None:
    import duckdb

    from tasks.keep_lake import collect_garbage, compact_lake

    for unit in range(2):
        commit(lake, [rows.adapter(lake, "v", unit)], unit=unit)
    published = lake.publish_views()
    kept = compact_lake(lake.uri)
    assert kept.counts["files_before"] > kept.counts["files_after"]
    collect_garbage(lake.uri, is_now=True)
    with duckdb.connect(published, read_only=True) as connection:
        assert connection.execute("select count(*) from adapters").fetchall() == [(2,)]
    events = lake.query("select detail from runs where event = 'maintenance'").to_pylist()
    assert len(events) == 2
