"""Users' SQL reads the catalog and nothing else."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import CatalogQueryError
from storage.lake import Lake, open_lake

Commit = Callable[..., str]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, rows: Any, commit: Commit) -> Lake:
    """A lake with two adapters; tests only read it."""
    lake = open_lake(tmp_path_factory.mktemp("lake") / "lake", create=True)
    commit(lake, [rows.adapter(lake, "v", i) for i in range(2)])
    return lake


@pytest.mark.parametrize(
    "sql",
    [
        "select count(*) as n from adapters",
        "  SELECT count(*) AS n FROM adapters ; -- how many",
        "with a as (from adapters_latest) select count(*) as n from a",
        "select count(*) as n from raw.adapters",
        "select cast(count(*) as bigint) as n from (select unnest(parents) from compositions)",
    ],
)
def test_one_select_is_answered(filled: Lake, sql: str) -> None:
    assert filled.query(sql).to_pylist() == [{"n": 2}]


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("", "nothing"),
        ("-- only a comment", "nothing"),
        ("select 1; select 2", "SELECT, SELECT"),
        ("select 1; drop view adapters", "SELECT, DROP"),
        ("copy (select 1) to '/tmp/stolen.csv'", "COPY"),
        ("attach '/tmp/other.duckdb'", "ATTACH"),
        ("detach memory", "DETACH"),
        ("pragma database_list", "PRAGMA"),
        ("install httpfs", "LOAD"),
        ("load httpfs", "LOAD"),
        ("insert into raw.adapters values (1)", "INSERT"),
        ("update adapters set rank = 1", "UPDATE"),
        ("delete from adapters", "DELETE"),
        ("create table t as select 1", "CREATE"),
        ("create or replace view adapters as select 1", "CREATE"),
        ("set enable_external_access = true", "SET"),
        ("reset lock_configuration", "SET"),
        ("use raw", "SET"),
        ("call pragma_version()", "CALL"),
        ("export database '/tmp/stolen'", "EXPORT"),
        ("prepare p as select 1", "PREPARE"),
        ("begin", "TRANSACTION"),
        ("explain analyze select 1", "EXPLAIN"),
    ],
)
def test_anything_but_one_select_is_refused(filled: Lake, sql: str, found: str) -> None:
    with pytest.raises(CatalogQueryError, match=rf"exactly one SELECT .* \(found {found}\)"):
        filled.query(sql)


@pytest.mark.parametrize(
    "source",
    [
        "read_csv('/etc/passwd')",
        "read_text('/etc/passwd')",
        "read_blob('/etc/hostname')",
        "'/etc/passwd'",
        "read_json('/proc/self/environ')",
        "read_parquet('{outside}')",
        "read_parquet('{root}/../outside.parquet')",
        "parquet_metadata('{outside}')",
        "glob('/*')",
        "sniff_csv('/etc/passwd')",
        "read_csv('http://127.0.0.1:9/x.csv')",
        "read_csv('s3://bucket/x.csv')",
        "duckdb_secrets()",
        "query('select * from read_text(''/etc/passwd'')')",
    ],
)
def test_files_outside_the_lake_are_out_of_reach(filled: Lake, tmp_path: Path, source: str) -> None:
    outside = tmp_path / "outside.parquet"
    pq.write_table(pa.table({"secret": [1]}), outside)
    table = source.format(outside=outside, root=filled.uri)
    with pytest.raises(CatalogQueryError, match=r"Permission|does not exist") as refused:
        filled.query(f"select * from {table}")
    assert "\n" not in str(refused.value)


def test_a_neighbour_whose_path_starts_like_the_lake_is_out_of_reach(
    filled: Lake,
) -> None:
    neighbour = Path(f"{filled.uri}-2")
    neighbour.mkdir()
    (neighbour / "secret.txt").write_text("secret")
    with pytest.raises(CatalogQueryError, match="Permission Error"):
        filled.query(f"select * from read_text('{neighbour}/secret.txt')")


def test_the_programs_own_variables_are_out_of_reach(filled: Lake) -> None:
    secret = pa.table({"secret": [1]})
    with pytest.raises(CatalogQueryError, match="Table with name secret does not exist"):
        filled.query("select * from secret")
    assert secret.num_rows == 1


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("selec 1", "syntax error"),
        ("select * from adapterz", 'Did you mean "adapters"'),
        ("select ranc from adapters", '"ranc" not found'),
        ("select 'a'::int from adapters", "Conversion Error"),
    ],
)
def test_a_mistake_is_explained_in_one_line(filled: Lake, sql: str, said: str) -> None:
    with pytest.raises(CatalogQueryError, match=said) as refused:
        filled.query(sql)
    assert "\n" not in str(refused.value)


def test_the_lake_can_be_asked_as_it_was(lake: Lake, rows: Any, commit: Commit) -> None:
    for unit in range(2):
        commit(lake, [rows.adapter(lake, "v", unit)], unit=unit)
    count = "select count(*) as n from adapters"
    assert lake.query(count).to_pylist() == [{"n": 2}]
    assert lake.query(count, as_of={"adapters": 1}).to_pylist() == [{"n": 1}]


def test_a_lake_in_a_directory_with_an_awkward_name_is_queried(
    tmp_path: Path, rows: Any, commit: Commit
) -> None:
    lake = open_lake(tmp_path / "it's a läke, 100% {new}", create=True)
    commit(lake, [rows.adapter(lake, "v", 0)])
    assert lake.query("select count(*) as n from adapters").to_pylist() == [{"n": 1}]
    assert lake.table("adapters").num_rows == 1
    assert lake.publish_views() == str(tmp_path / "it's a läke, 100% {new}" / "catalog.duckdb")


def test_a_query_gives_no_warning(filled: Lake) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled.query("from coverage")
