"""A million adapter rows: what a commit and a query cost beside small tables and one plain file."""

import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, Transaction, write_deltalake

from storage.catalog import Catalog
from storage.compaction import compact
from storage.object_store import LocalObjectStore
from storage.query import run_query
from storage.schemas import TABLES, table_schema

NUM_ROWS = 1_000_000
NUM_COMMITS = 500
UNIT = 64
QUERIES = (
    "select count(*) as n, sum(device_s) as s, sum(size_bytes) as b from adapters",
    "select shard, count(*) as n, sum(end_us - start_us) as us from adapters group by 1 order by 1",
    "select count(*) as n from adapters where adapter_key = '{key}'",
)


def make_rows(first: int, num_rows: int) -> pa.Table:
    """Synthetic rows of the adapters table, from numbers that count on."""
    numbers = np.arange(first, first + num_rows)
    spread = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(str)
    columns = [_column(field, numbers, spread) for field in table_schema("adapters")]
    return pa.table(columns, schema=table_schema("adapters"))


def _column(field: pa.Field, numbers: Any, spread: Any) -> pa.Array:
    size = len(numbers)
    if field.name in ("adapter_key", "adapter_sha256"):
        return pa.array(spread, type=pa.string())
    if pa.types.is_timestamp(field.type):
        return pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * size, type=field.type)
    if pa.types.is_list(field.type):
        value = "down_proj" if pa.types.is_string(field.type.value_type) else 7
        return pa.array([[value] * 4] * size, type=field.type)
    if pa.types.is_string(field.type):
        return pa.array(np.char.add(field.name, (numbers // 120).astype(str)), type=field.type)
    if pa.types.is_boolean(field.type):
        return pa.array(np.zeros(size, dtype=bool))
    return pa.array(numbers % 1000).cast(field.type)


def append(catalog: Catalog, rows: pa.Table, number: int) -> None:
    """What Catalog.append does, with rows made beforehand."""
    opened = catalog._writable("adapters")
    assert Catalog._number(opened, "app") < number
    Catalog._write(opened, rows, CommitProperties(app_transactions=[Transaction("app", number)]))


def cpu_of(action: Callable[[], Any]) -> float:
    before = time.process_time()
    action()
    return time.process_time() - before


def small_catalog(root: Path) -> Catalog:
    catalog = Catalog(str(root))
    catalog.create()
    for number in range(1000 // UNIT):
        append(catalog, make_rows(number * UNIT, UNIT), number)
    return catalog


def large_catalog(root: Path) -> Catalog:
    catalog = Catalog(str(root))
    catalog.create()
    step = NUM_ROWS // NUM_COMMITS
    for number in range(NUM_COMMITS):
        opened = catalog._writable("adapters")
        # Straight to Delta, without flushing each file to disk.
        properties = CommitProperties(app_transactions=[Transaction("app", number)])
        rows = make_rows(number * step, step)
        write_deltalake(opened, rows, mode="append", commit_properties=properties)
    return catalog


@pytest.mark.slow
def test_a_million_rows_cost_a_commit_and_a_query_little_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small, large = small_catalog(tmp_path / "small"), large_catalog(tmp_path / "large")
    objects = LocalObjectStore(tmp_path)
    for catalog in (small, large):
        compact(catalog, objects, history=timedelta(0))
    plain = tmp_path / "plain.parquet"
    pq.write_table(make_rows(0, NUM_ROWS), plain)
    queries = _query_costs(large, tmp_path, plain)
    commits = _commit_costs(small, large)
    told = {"commit, 1e6 rows / 1e3": commits, **queries}
    with capsys.disabled():
        sys.stdout.write("".join(f"\n  {ratio:.2f}x  {name}" for name, ratio in told.items()))
    assert large.read("adapters", columns=["shard"]).num_rows == NUM_ROWS + 40 * UNIT
    assert commits <= 1.5
    assert max(queries.values()) <= 3.0


def _commit_costs(small: Catalog, large: Catalog) -> float:
    first = NUM_COMMITS
    costs: dict[str, list[float]] = {"small": [], "large": []}
    for number in range(first, first + 40):
        rows = make_rows(number * UNIT, UNIT)
        for name, catalog in (("small", small), ("large", large)):
            costs[name].append(cpu_of(lambda c=catalog, r=rows, n=number: append(c, r, n)))
    return statistics.median(costs["large"]) / statistics.median(costs["small"])


def _query_costs(large: Catalog, root: Path, plain: Path) -> dict[str, float]:
    key = pq.read_table(plain, columns=["adapter_key"])[0][NUM_ROWS // 2].as_py()
    none: dict[str, list[str]] = {table: [] for table in TABLES}
    ratios = {}
    for text in QUERIES:
        sql = text.format(key=key)
        costs: dict[str, list[float]] = {"lake": [], "plain": []}
        found = {}
        for _ in range(5):
            for name, files in (
                ("lake", lambda: {table: large.file_uris(table) for table in TABLES}),
                ("plain", lambda: {**none, "adapters": [str(plain)]}),
            ):
                started = time.process_time()
                found[name] = run_query(sql, files, root=str(root)).to_pylist()
                costs[name].append(time.process_time() - started)
        assert found["lake"] == found["plain"]
        ratios[sql] = statistics.median(costs["lake"]) / statistics.median(costs["plain"])
    return ratios
