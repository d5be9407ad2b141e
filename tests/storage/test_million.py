"""A manifest of a million rows is listed, looked up and planned in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

# The catalog knows every fourth file. Rows that give size and version spare a look at each file.
PLAN = """
import json, resource, sys
from pathlib import Path
from storage.lake import open_lake
from storage.manifest import list_sources
from storage.plans import PlannedSource
from storage.schemas import table_schema
from storage.survey import SurveyRule

folder, num = Path(sys.argv[1]), int(sys.argv[2])
lake = open_lake(folder / "lake", create=True)
peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rule = SurveyRule(recipe_id="recipe", segment_us=30_000_000, min_tail_us=10_000_000)
with lake.survey(rule) as survey:
    survey.take(list_sources(str(folder / f"{num}.parquet")))
    statuses = {row["status"]: row["n"] for row in survey.rows(
        "select status, count(*) as n from surveyed group by 1")}
    planned = (PlannedSource(source=s.source, cost=1.0) for s in survey.todo())
    plan = lake.new_plan(planned, recipe_id="recipe", shard_cost=1000.0)
last = lake.get_plan(plan.run_id).sources(plan.header.num_shards - 1)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"peak_mib": peak / 1024, "before_mib": peak_before / 1024, **statuses,
                  "num_sources": plan.header.num_sources, "last": len(last)}))
"""


def write_manifest(path: Path, num: int) -> None:
    schema = pa.schema(
        {"uri": pa.string(), "size_bytes": pa.int64(), "etag": pa.string(), "title": pa.string()}
    )
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, num, 50_000):
            numbers = range(start, min(start + 50_000, num))
            columns = {
                "uri": [f"s3://team/videos/{n % 977}/{n:08d}.mp4" for n in numbers],
                "size_bytes": [1000 + n for n in numbers],
                "etag": [f"{n:032x}" for n in numbers],
                "title": [f"what video {n} is called" for n in numbers],
            }
            writer.write_table(pa.table(columns, schema=schema))


def write_catalog(folder: Path, num: int) -> None:
    """Make a lake that knows every fourth file: one segment each, done and composed."""
    code = CATALOG.format(num=num)
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=600)


CATALOG = """
import sys
from pathlib import Path
import pyarrow as pa
from deltalake import write_deltalake
from storage.identity import sha256_hex, source_id
from storage.lake import open_lake
from storage.schemas import table_schema

root = Path(sys.argv[1]) / "lake"
lake = open_lake(root, create=True)
lake.append("runs", [dict(run_id="run", recipe_id="recipe", event="unit", shard=0, unit=0)])
for start in range(0, {num}, 40_000):
    numbers = range(start, min(start + 40_000, {num}), 4)
    uris = [f"s3://team/videos/{{n % 977}}/{{n:08d}}.mp4" for n in numbers]
    known = {{
        "run_id": "run", "recipe_id": "recipe", "shard": 0, "unit": 0, "uri": uris,
        "source_id": [source_id(uri) for uri in uris], "size_bytes": [1000 + n for n in numbers],
        "version_token": [f'"{{n:032x}}"' for n in numbers],
        "video_id": [sha256_hex(uri.encode()) for uri in uris], "duration_us": 20_000_000,
        "num_segments": 1, "start_us": 0, "end_us": 20_000_000, "outcome": "adapter",
        "is_done": True, "adapter_key": [sha256_hex(f"k{{n}}".encode()) for n in numbers],
        "schema_version": 2, "created_at": 0, "composition_id": uris, "method": "concat",
        "parents": [["p"]] * len(uris), "coefficients": [[1.0]] * len(uris), "rank": 8,
        "relative_error": 0.0, "checkpoint_sha256": "c",
    }}
    for table in ("sources", "videos", "segments", "compositions"):
        schema = table_schema(table)
        columns = {{}}
        for field in schema:
            value = known.get(field.name)
            values = value if isinstance(value, list) else [value] * len(uris)
            columns[field.name] = pa.array(values, type=field.type)
        rows = pa.table(columns, schema=schema)
        write_deltalake(str(root / "catalog" / table), rows, mode="append")
"""


def measure(folder: Path, num: int) -> dict[str, float]:
    write_manifest(folder / f"{num}.parquet", num)
    done = subprocess.run(
        [sys.executable, "-c", PLAN, str(folder), str(num)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_a_manifest_of_a_million_rows_is_planned_in_bounded_memory(tmp_path: Path) -> None:
    write_catalog(tmp_path, 1_000_000)
    small, large = measure(tmp_path, 10_000), measure(tmp_path, 1_000_000)
    assert (small["done"], small["num_sources"]) == (2_500, 7_500)
    assert (large["done"], large["num_sources"], large["last"]) == (250_000, 750_000, 1000)
    # Measured: 206 MiB more for a hundred times the rows, most of it what DuckDB may take.
    assert large["peak_mib"] - small["peak_mib"] < 450, (small, large)
