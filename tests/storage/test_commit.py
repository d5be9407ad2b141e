"""Whatever dies when, a unit ends up in the catalog exactly once, and no row lacks its file."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.catalog import Catalog
from storage.errors import ObjectMissingError, RowError, UnitOrderError
from storage.lake import Lake
from storage.object_store import LocalObjectStore

Commit = Callable[..., str]


class DiedError(Exception):
    """Stands for a kill."""


class MortalCatalog(Catalog):
    """A catalog whose writer dies at its n-th append, just before it or just after."""

    def __init__(self, uri: str, *, dies_at: int, is_after: bool) -> None:
        super().__init__(uri)
        self.appends_left = dies_at
        self.is_after = is_after

    def append(self, table: str, rows: Sequence[Any], **options: Any) -> bool:
        self.appends_left -= 1
        if self.appends_left == 0 and not self.is_after:
            raise DiedError
        done = super().append(table, rows, **options)
        if self.appends_left == 0:
            raise DiedError
        return done


class MortalObjects(LocalObjectStore):
    """A store whose writer dies at its n-th file, just before it or just after."""

    def __init__(self, root: Path, *, dies_at: int, is_after: bool) -> None:
        super().__init__(root)
        self.files_left = dies_at
        self.is_after = is_after

    def create(self, name: str, data: bytes) -> bool:
        self.files_left -= 1
        if self.files_left == 0 and not self.is_after:
            raise DiedError
        done = super().create(name, data)
        if self.files_left == 0:
            raise DiedError
        return done


def check_lake(lake: Lake, *, num_segments: int) -> None:
    """Each segment once as adapter or open reject, no row without its file, parents known."""
    adapters = lake.table("adapters").to_pylist()
    segments = lake.table("segments").to_pylist()
    assert set(Counter(row["adapter_key"] for row in adapters).values()) <= {1}
    assert set(Counter(row["adapter_key"] for row in segments).values()) == {1}
    assert len(segments) == num_segments
    for row in adapters:
        assert lake.adapters.get(row["adapter_sha256"])
    made = {row["adapter_key"] for row in adapters}
    rejected = {row["adapter_key"] for row in lake.query("from open_rejects").to_pylist()}
    assert made | rejected == {row["adapter_key"] for row in segments}
    assert not made & rejected
    assert made == {row["adapter_key"] for row in segments if row["outcome"] == "adapter"}
    known = {row["adapter_sha256"] for row in adapters}
    for row in lake.table("compositions").to_pylist():
        assert set(row["parents"]) <= known


def test_units_commit_in_order_and_once(lake: Lake, rows: Any, commit: Commit) -> None:
    for unit in range(3):
        adapters = [rows.adapter(lake, "v", 2 * unit + i) for i in range(2)]
        assert lake.next_unit("run", 0) == unit
        assert commit(lake, adapters, unit=unit) == "committed"
        assert commit(lake, adapters, unit=unit) == "already"
    check_lake(lake, num_segments=6)
    closing = lake.table("runs").to_pylist()
    assert [row["unit"] for row in sorted(closing, key=lambda row: row["unit"])] == [0, 1, 2]
    assert {row["event"] for row in closing} == {"unit"}
    counted = ("num_segments", "num_adapters", "num_rejects", "covered_us", "device_s", "decode_s")
    assert [closing[0][name] for name in counted] == [2, 2, 0, 60_000_000, 1.0, 0.5]


def test_a_unit_that_comes_before_its_elders_is_refused(lake: Lake, commit: Commit) -> None:
    with pytest.raises(UnitOrderError, match="unit 1 of shard 0 of run run: unit 0 comes first"):
        commit(lake, [], unit=1)
    assert commit(lake, [], unit=0) == "committed"


def test_shards_and_runs_number_their_units_apart(lake: Lake, rows: Any) -> None:
    for run_id, shard in (("a", 0), ("a", 1), ("b", 0)):
        place = {"run_id": run_id, "shard": shard, "unit": 0}
        assert lake.commit_unit(**place, rows={}, common=rows.common()) == "committed"


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5, 6])
def test_a_writer_that_dies_at_any_table_is_completed_by_the_next_attempt(
    lake: Lake, rows: Any, commit: Commit, dies_at: int, is_after: bool
) -> None:
    videos = {"sources": [rows.source("/v.mp4", "v")], "videos": [rows.video("/v.mp4", "v")]}
    catalog = MortalCatalog(f"{lake.uri}/catalog", dies_at=dies_at, is_after=is_after)
    mortal = Lake(uri=lake.uri, objects=LocalObjectStore(Path(lake.uri)), catalog=catalog)
    first = [rows.adapter(mortal, "v", i, content="first") for i in range(2)]
    with pytest.raises(DiedError):
        commit(mortal, first, **videos)
    second = [rows.adapter(lake, "v", i, content="second") for i in range(2)]
    is_closed = dies_at == 6 and is_after
    assert commit(lake, second, **videos) == ("already" if is_closed else "committed")
    check_lake(lake, num_segments=2)
    is_first = (dies_at, is_after) != (1, False)
    kept = {row["adapter_sha256"] for row in lake.table("adapters").to_pylist()}
    assert kept == {row["adapter_sha256"] for row in (first if is_first else second)}
    assert {lake.table(table).num_rows for table in ("sources", "videos", "compositions")} == {1}
    assert lake.table("runs").num_rows == 1


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2])
def test_a_writer_that_dies_at_any_file_leaves_no_row(
    lake: Lake, rows: Any, commit: Commit, dies_at: int, is_after: bool
) -> None:
    objects = MortalObjects(Path(lake.uri), dies_at=dies_at, is_after=is_after)
    mortal = Lake(uri=lake.uri, objects=objects, catalog=Catalog(f"{lake.uri}/catalog"))
    with pytest.raises(DiedError):
        [rows.adapter(mortal, "v", i) for i in range(2)]
    assert lake.table("adapters").num_rows == 0
    assert commit(lake, [rows.adapter(lake, "v", i) for i in range(2)]) == "committed"
    check_lake(lake, num_segments=2)
    assert not list(Path(lake.uri).rglob(".tmp-*"))


@pytest.mark.parametrize("num_first", [0, 1])
def test_what_an_earlier_attempt_did_not_commit_is_left_to_the_next_run(
    lake: Lake, rows: Any, commit: Commit, num_first: int
) -> None:
    catalog = MortalCatalog(f"{lake.uri}/catalog", dies_at=1, is_after=True)
    mortal = Lake(uri=lake.uri, objects=LocalObjectStore(Path(lake.uri)), catalog=catalog)
    with pytest.raises(DiedError):
        commit(mortal, [rows.adapter(mortal, "v", i) for i in range(num_first)])
    both = [rows.adapter(lake, "v", i, content="second") for i in range(2)]
    assert commit(lake, both) == "committed"
    check_lake(lake, num_segments=2)
    done = lake.done_segments(rows.recipe_id).get(rows.video_id("v"), set())
    assert len(done) == lake.table("adapters").num_rows == num_first
    assert commit(lake, both[num_first:], run_id="next") == "committed"
    assert len(lake.done_segments(rows.recipe_id)[rows.video_id("v")]) == 2
    assert lake.query("from open_rejects").num_rows == 0


def test_rows_that_contradict_what_is_committed_are_refused(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    catalog = MortalCatalog(f"{lake.uri}/catalog", dies_at=1, is_after=True)
    mortal = Lake(uri=lake.uri, objects=LocalObjectStore(Path(lake.uri)), catalog=catalog)
    with pytest.raises(DiedError):
        commit(mortal, [])
    adapter = rows.adapter(lake, "v", 0)
    with pytest.raises(UnitOrderError, match="give the segments as a function of the committed"):
        commit(lake, [adapter], segments=[rows.segment(adapter)])


@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_a_new_run_takes_over_what_a_dead_run_left_open(
    lake: Lake, rows: Any, commit: Commit, dies_at: int
) -> None:
    catalog = MortalCatalog(f"{lake.uri}/catalog", dies_at=dies_at, is_after=True)
    mortal = Lake(uri=lake.uri, objects=LocalObjectStore(Path(lake.uri)), catalog=catalog)
    dead = [rows.adapter(mortal, "v", i, content="dead") for i in range(2)]
    with pytest.raises(DiedError):
        commit(mortal, dead, run_id="dead")
    assert lake.done_segments(rows.recipe_id) == {}
    # The new plan cuts other units: what was one unit is now the middle of two.
    second = [rows.adapter(lake, "v", i, content="second") for i in range(3)]
    assert commit(lake, [second[2], second[0]], run_id="new") == "committed"
    assert commit(lake, [second[1]], run_id="new", unit=1) == "committed"
    made = {row["adapter_key"]: row["adapter_sha256"] for row in lake.table("adapters").to_pylist()}
    assert lake.table("adapters").num_rows == 3
    assert [made[row["adapter_key"]] for row in dead] == [row["adapter_sha256"] for row in dead]
    assert len(lake.done_segments(rows.recipe_id)[rows.video_id("v")]) == 3
    assert lake.query("select * from segments").num_rows == 3
    assert lake.query("select * from coverage").num_rows == 0


def test_a_new_run_that_dies_too_still_takes_over(lake: Lake, rows: Any, commit: Commit) -> None:
    place = {"uri": lake.uri, "objects": LocalObjectStore(Path(lake.uri))}
    for run_id in ("dead", "new"):
        catalog = MortalCatalog(f"{lake.uri}/catalog", dies_at=1, is_after=True)
        mortal = Lake(**place, catalog=catalog)
        with pytest.raises(DiedError):
            commit(mortal, [rows.adapter(mortal, "v", 0, content=run_id)], run_id=run_id)
    adapter = rows.adapter(lake, "v", 0, content="again")
    assert commit(lake, [adapter], run_id="new") == "committed"
    check_lake(lake, num_segments=1)


def test_the_units_of_a_run_must_be_cut_the_same_in_every_attempt(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    commit(lake, [rows.adapter(lake, "v", 0)])
    with pytest.raises(UnitOrderError, match="it was closed with other segments"):
        commit(lake, [rows.adapter(lake, "v", 1)])


def test_an_adapter_row_without_its_file_is_refused(lake: Lake, rows: Any, commit: Commit) -> None:
    adapter = {**rows.adapter(lake, "v", 0), "adapter_sha256": "0" * 64}
    with pytest.raises(ObjectMissingError, match="a row names this adapter but it has no file"):
        commit(lake, [adapter])
    assert lake.table("adapters").num_rows == 0


def test_a_file_that_a_clean_up_took_during_the_commit_is_there_again(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    sha256 = rows.adapter(lake, "v", 0)["adapter_sha256"]
    adapter = rows.adapter(lake, "v", 0)

    def clean_up(committed: Any) -> list[Any]:
        Path(lake.adapters.uri(sha256)).unlink()
        return []

    commit(lake, [adapter], compositions=clean_up)
    assert lake.adapters.get(sha256)


def test_columns_shared_by_a_unit_fill_every_table(lake: Lake, rows: Any, commit: Commit) -> None:
    common = {"code_version": "9.9", "recipe": "{}", "corpus": "/videos", "attempt_id": "second"}
    closing = [{"wall_s": 2.0, "num_videos": 1}]
    commit(lake, [rows.adapter(lake, "v", 0)], common=common, runs=closing)
    run = lake.table("runs").to_pylist()[0]
    assert (run["code_version"], run["recipe"], run["wall_s"]) == ("9.9", "{}", 2.0)
    assert lake.table("segments")["attempt_id"].to_pylist() == ["second"]
    assert lake.table("adapters")["code_version"].to_pylist() == ["0.1.0"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"adapterz": []}, "no table adapterz"),
        ({"adapters": lambda committed: []}, "adapters are given as rows"),
        ({"runs": [{}, {}]}, "a unit is closed by one row of runs"),
        ({"videos": [{"uri": "/v.mp4"}]}, "videos: a row has no"),
    ],
)
def test_a_unit_of_the_wrong_form_is_refused(
    lake: Lake, rows: Any, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(RowError, match=said):
        lake.commit_unit(run_id="run", shard=0, unit=0, rows=given, common=rows.common())
    assert lake.next_unit("run", 0) == 0


def test_concurrent_runs_may_make_a_key_twice_and_the_view_shows_one(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    commit(lake, [rows.adapter(lake, "v", 0, content="one")], run_id="one")
    commit(lake, [rows.adapter(lake, "v", 0, content="two")], run_id="two")
    shas = lake.table("adapters")["adapter_sha256"].to_pylist()
    assert len(set(shas)) == 2
    latest = lake.query("select adapter_sha256 from adapters_latest").to_pylist()
    assert latest == [{"adapter_sha256": min(shas)}]
    found = lake.adapters_for([rows.video_id("v")], rows.recipe_id)[rows.video_id("v")]
    assert [row["adapter_sha256"] for row in found] == [min(shas)]


def test_a_reject_says_how_often_its_recipe_tried_the_same_input(lake: Lake, rows: Any) -> None:
    def reject(adapter: dict[str, Any] | None) -> dict[str, Any]:
        told = {"reason": "DECODE_TIMEOUT", "is_terminal": False, **rows.source("/v.mp4", "v")}
        keys = ("adapter_key", "start_us", "end_us") if adapter else ()
        return {**told, **{key: (adapter or {})[key] for key in keys}}

    segment = reject(rows.adapter(lake, "v", 0))
    for run_id, unit in (("a", 0), ("a", 1), ("b", 0)):
        place = {"run_id": run_id, "shard": 0, "unit": unit}
        lake.commit_unit(**place, rows={"rejects": [segment, reject(None)]}, common=rows.common())
    place = {"run_id": "c", "shard": 0, "unit": 0}
    common = rows.common(recipe_id="other")
    lake.commit_unit(**place, rows={"rejects": [segment]}, common=common)
    found = lake.query(
        "select recipe_id, adapter_key is null as whole, list(attempt order by attempt) as tries"
        " from rejects group by all order by all"
    ).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        ("other", False, [1]),
        (rows.recipe_id, False, [1, 2, 3]),
        (rows.recipe_id, True, [1, 2, 3]),
    ]
