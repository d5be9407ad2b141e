"""Tables take rows exactly once, and read back with every column."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from storage.catalog import Catalog
from storage.errors import CatalogError
from storage.schemas import TABLES, rows_to_arrow, table_schema

ROW: dict[str, Any] = {"video_id": "v", "sequence": 1, "is_deleted": True}


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(str(tmp_path / "catalog"))


def test_a_created_catalog_has_every_table_empty(catalog: Catalog) -> None:
    assert not catalog.exists()
    catalog.create()
    catalog.create()
    assert catalog.exists()
    for table in TABLES:
        assert catalog.read(table).schema.equals(table_schema(table))
        assert catalog.read(table).num_rows == 0
        assert catalog.file_uris(table) == []


def test_a_table_that_was_never_created_reads_as_empty(catalog: Catalog) -> None:
    assert catalog.read("adapters").schema.equals(table_schema("adapters"))
    assert catalog.committed("adapters", "app") == -1
    assert catalog.file_uris("adapters") == []


def test_rows_read_back_with_their_columns_and_filters(catalog: Catalog) -> None:
    assert catalog.append("tombstones", [ROW, {**ROW, "video_id": "w", "reason": "asked"}])
    assert catalog.read("tombstones")["reason"].to_pylist() == [None, "asked"]
    found = catalog.read("tombstones", columns=["sequence"], where=pc.field("video_id") == "w")
    assert found.to_pylist() == [{"sequence": 1}]


def test_a_transaction_is_appended_once(catalog: Catalog) -> None:
    assert catalog.append("tombstones", [ROW], transaction=("app", 0))
    assert not catalog.append("tombstones", [ROW], transaction=("app", 0))
    assert catalog.append("tombstones", [ROW], transaction=("other", 0))
    assert catalog.append("tombstones", [ROW], transaction=("app", 3))
    assert not catalog.append("tombstones", [ROW], transaction=("app", 2))
    assert catalog.committed("tombstones", "app") == 3
    assert catalog.read("tombstones").num_rows == 3


def test_a_transaction_without_rows_counts(catalog: Catalog) -> None:
    assert catalog.append("tombstones", [], transaction=("app", 0))
    assert not catalog.append("tombstones", [ROW], transaction=("app", 0))
    assert catalog.read("tombstones").num_rows == 0


class Overtaken(Catalog):
    """A writer whom another one overtakes between its look and its commit."""

    rival: Catalog
    transaction: tuple[str, int] | None
    num_times = 1

    @staticmethod
    def _number(handle: DeltaTable, app_id: str) -> int:
        found = Catalog._number(handle, app_id)
        if Overtaken.num_times:
            Overtaken.num_times -= 1
            Overtaken.rival.append("tombstones", [ROW], transaction=Overtaken.transaction)
        return found


def test_of_two_writers_of_one_transaction_the_slower_one_notices(tmp_path: Path) -> None:
    slow = Overtaken(str(tmp_path))
    slow.create()
    Overtaken.rival, Overtaken.transaction, Overtaken.num_times = (
        Catalog(str(tmp_path)),
        ("a", 0),
        1,
    )
    assert not slow.append("tombstones", [{**ROW, "reason": "slow"}], transaction=("a", 0))
    assert slow.read("tombstones")["reason"].to_pylist() == [None]


def test_writers_of_different_transactions_do_not_disturb_each_other(tmp_path: Path) -> None:
    slow = Overtaken(str(tmp_path))
    slow.create()
    Overtaken.rival, Overtaken.transaction, Overtaken.num_times = (
        Catalog(str(tmp_path)),
        ("b", 0),
        1,
    )
    assert slow.append("tombstones", [ROW], transaction=("a", 0))
    assert slow.read("tombstones").num_rows == 2


def test_transactions_survive_the_checkpoints_of_the_log(catalog: Catalog, tmp_path: Path) -> None:
    for number in range(105):
        assert catalog.append("tombstones", [], transaction=("app", number))
    assert (tmp_path / "catalog/tombstones/_delta_log/_last_checkpoint").exists()
    fresh = Catalog(str(tmp_path / "catalog"))
    assert fresh.committed("tombstones", "app") == 104
    assert not fresh.append("tombstones", [ROW], transaction=("app", 104))


def test_a_table_of_an_older_version_gets_its_new_columns_on_the_first_append(
    tmp_path: Path, catalog: Catalog
) -> None:
    names = ["video_id", "sequence", "is_deleted", "schema_version", "created_at"]
    old = rows_to_arrow("tombstones", [ROW]).select(names)
    write_deltalake(str(tmp_path / "catalog/tombstones"), old)
    assert catalog.read("tombstones")["reason"].to_pylist() == [None]
    assert catalog.append("tombstones", [{**ROW, "reason": "new"}])
    assert sorted(catalog.read("tombstones")["reason"].to_pylist(), key=str) == [None, "new"]


def test_the_past_can_be_read_by_version_and_by_time(catalog: Catalog) -> None:
    catalog.create()
    before = datetime.now(UTC)
    catalog.append("tombstones", [ROW])
    catalog.append("tombstones", [ROW])
    assert catalog.read("tombstones", as_of={"tombstones": 1}).num_rows == 1
    assert catalog.read("tombstones", as_of={"adapters": 0}).num_rows == 2
    assert catalog.read("tombstones", as_of=before).num_rows == 0
    assert catalog.read("tombstones", as_of=datetime(2000, 1, 1, tzinfo=UTC)).num_rows == 0
    assert catalog.read("tombstones", as_of=datetime.now(UTC)).num_rows == 2


def test_a_version_that_does_not_exist_is_an_error(catalog: Catalog) -> None:
    catalog.create()
    with pytest.raises(CatalogError, match="catalog table tombstones: cannot read it"):
        catalog.read("tombstones", as_of={"tombstones": 99})


def test_a_damaged_table_is_named(catalog: Catalog, tmp_path: Path) -> None:
    catalog.append("tombstones", [ROW])
    for file in (tmp_path / "catalog/tombstones").glob("*.parquet"):
        file.write_bytes(b"PAR1")
    with pytest.raises(CatalogError, match="catalog table tombstones: cannot read it"):
        catalog.read("tombstones")


def test_a_table_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalog").write_bytes(b"a file where the tables should be")
    with pytest.raises(CatalogError, match="catalog table tombstones: cannot"):
        Catalog(str(tmp_path / "catalog")).append("tombstones", [ROW])


def test_writing_can_be_refused_while_reading_goes_on(tmp_path: Path) -> None:
    def refuse() -> None:
        raise CatalogError("read only")

    Catalog(str(tmp_path)).create()
    guarded = Catalog(str(tmp_path), before_write=refuse)
    assert guarded.read("adapters").num_rows == 0
    with pytest.raises(CatalogError, match="read only"):
        guarded.append("tombstones", [ROW])


def test_every_column_type_survives_the_round_trip(catalog: Catalog) -> None:
    for table in TABLES:
        row = {field.name: _value(field.type) for field in table_schema(table)}
        catalog.append(table, [row])
        assert catalog.read(table).to_pylist() == rows_to_arrow(table, [row]).to_pylist()


def _value(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_value(kind.value_type)] * 2
    values = {pa.string(): "t", pa.int32(): 1, pa.int64(): 2**40, pa.float64(): 0.5}
    if kind in values:
        return values[kind]
    return True if pa.types.is_boolean(kind) else datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
