"""The tables' columns are a promise to everyone who queries them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.document_schemas import catalog_page, main
from storage.errors import CatalogError, RowError
from storage.schemas import COMMIT_ORDER, SCHEMA_VERSION, TABLES, rows_to_arrow, table_schema
from storage.views import describe_views

GOLDEN = Path(__file__).with_name("schemas.json")


def snapshot() -> dict[str, Any]:
    tables = {
        table: {f.name: f"{f.type}{'' if f.nullable else ' not null'}" for f in table_schema(table)}
        for table in TABLES
    }
    return {"schema_version": SCHEMA_VERSION, "tables": tables}


def test_the_columns_are_those_of_the_golden_snapshot() -> None:
    # A deliberate change: raise SCHEMA_VERSION and write the snapshot anew with the line below.
    # GOLDEN.write_text(json.dumps(snapshot(), indent=1) + "\n")
    assert snapshot() == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("table", TABLES)
def test_every_column_says_what_it_is_and_in_which_unit(table: str) -> None:
    schema = table_schema(table)
    assert schema.metadata[b"description"]
    assert len(set(schema.names)) == len(schema.names)
    for field in schema:
        assert field.metadata[b"description"], field.name
        suffix = field.name.rpartition("_")[2]
        expected = {"us": "us", "s": "s", "bytes": "bytes", "px": "px"}.get(suffix)
        assert expected in (None, field.metadata[b"unit"].decode()), field.name


def test_adapters_come_first_and_the_closing_row_last() -> None:
    assert sorted(COMMIT_ORDER) == sorted(TABLES)
    assert (COMMIT_ORDER[0], COMMIT_ORDER[-1]) == ("adapters", "runs")


def test_a_row_is_stamped_with_its_schema_version_and_time() -> None:
    rows = rows_to_arrow("tombstones", [{"video_id": "v", "sequence": 1, "is_deleted": True}])
    assert rows["schema_version"].to_pylist() == [SCHEMA_VERSION]
    assert rows.schema.field("created_at").type == pa.timestamp("us", tz="UTC")
    assert rows["created_at"][0].as_py() is not None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"video_id": "v", "sequence": 1}, "no is_deleted"),
        ({"video_id": "v", "sequence": 1, "is_deleted": True, "why": "x"}, "unknown column why"),
        ({"video_id": "v", "sequence": "one", "is_deleted": True}, "does not fit its column"),
        ({"video_id": None, "sequence": 1, "is_deleted": True}, "no video_id"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_name(row: dict[str, Any], said: str) -> None:
    with pytest.raises(RowError, match=said):
        rows_to_arrow("tombstones", [row])


def test_an_unknown_table_is_refused_with_the_list_of_tables() -> None:
    with pytest.raises(CatalogError, match="no table 'videoz'; the tables are sources"):
        table_schema("videoz")


def test_the_generated_page_describes_every_view_and_column(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = catalog_page()
    for name, description, _ in describe_views():
        assert f"### {name}\n\n{description}" in page
        assert description
    assert all(f"| {name} |" in page for table in TABLES for name in table_schema(table).names)
    main([str(tmp_path / "catalog.md")])
    main([])
    assert capsys.readouterr().out == (tmp_path / "catalog.md").read_text() == page
