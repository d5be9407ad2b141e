"""Lakes of made-up rows for benchmarks: units of one-segment videos, by the real commit.

A unit is 64 videos (`UNIT`) in every table that a shard fills: adapters, sources, videos, segments,
compositions, and the row of `runs` that closes it. Its adapter files are 64 small ones that all
units share: what is measured is tables, not the store. `grow` writes straight to Delta, with rows
made as columns and nothing flushed, so that a large catalog is made in seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, Transaction, write_deltalake

from storage.identity import adapter_key, sha256_hex
from storage.lake import Lake
from storage.schemas import Row, rows_to_arrow

UNIT = 64
RECIPE_ID = sha256_hex(b"benchmark")
SEGMENT_US = 30_000_000
NUM_CORPORA = 4
UNITS_PER_SHARD = 25
COMMON: Row = {
    "recipe_id": RECIPE_ID,
    "recipe": "{}",
    "attempt_id": "benchmark",
    "worker": "host:1",
    "code_version": "0",
}


def video_id(number: int) -> str:
    """Return the id of the video of this number."""
    return sha256_hex(f"video {number}".encode())


def _uri(number: int) -> str:
    return f"/videos/{number}.mp4"


# What differs from video to video; everything else repeats from block to block.
_NUMBERED: Mapping[str, Callable[[int], str]] = {
    "video_id": video_id,
    "adapter_key": lambda n: adapter_key(RECIPE_ID, video_id(n), 0, SEGMENT_US),
    "composition_id": lambda n: sha256_hex(f"composition {n}".encode()),
    "source_id": lambda n: sha256_hex(_uri(n).encode()),
    "uri": _uri,
    "corpus": lambda n: f"corpus {n % NUM_CORPORA}",
}


def put_files(lake: Lake) -> list[str]:
    """Put the adapter files that every unit names; return their names."""
    return [lake.adapters.put(f"adapter {number}".encode()) for number in range(UNIT)]


def rows_of(numbers: Sequence[int], files: Sequence[str]) -> dict[str, list[Row]]:
    """Return the rows of some videos, table by table."""
    made: dict[str, list[Row]] = {
        name: [] for name in ("adapters", "sources", "videos", "segments", "compositions")
    }
    for number in numbers:
        for table, row in _rows_of_video(number, files[number % UNIT]).items():
            made[table].append(row)
    return made


def _rows_of_video(number: int, file: str) -> Mapping[str, Row]:
    made = {name: make(number) for name, make in _NUMBERED.items()}
    source = {name: made[name] for name in ("source_id", "uri", "video_id")} | {"size_bytes": 10}
    span = {"video_id": made["video_id"], "start_us": 0, "end_us": SEGMENT_US}
    key = {"adapter_key": made["adapter_key"]}
    times_us = {"frame_times_us": [SEGMENT_US // 24 * (2 * frame + 1) for frame in range(12)]}
    done = {"outcome": "adapter", "is_done": True, "decode_s": 0.1, "num_frames": 12}
    parents = {"parents": [file], "coefficients": [1.0], "method": "concat", "num_segments": 1}
    origin = {"composition_id": made["composition_id"], "checkpoint_sha256": "c" * 64}
    return {
        "adapters": span | key | times_us | _adapter_columns(file),
        "sources": source | {"corpus": made["corpus"]},
        "videos": source | {"duration_us": SEGMENT_US, "num_segments": 1},
        "segments": span | key | times_us | done,
        "compositions": span | parents | origin | {"rank": 16, "relative_error": 0.0},
    }


def _adapter_columns(file: str) -> dict[str, Any]:
    return {
        "adapter_sha256": file,
        "prompt": "Describe the video.",
        "model_name": "smolvlm2-500m",
        "model_weights_sha256": "w" * 64,
        "checkpoint_sha256": "c" * 64,
        "rank": 16,
        "layers": list(range(32)),
        "modules": ["down_proj"],
        "scaling": 1.0,
        "dtype": "bfloat16",
        "size_bytes": 3_600_000,
        "device_s": 0.1,
    }


def place_of(run_id: str, unit: int) -> dict[str, Any]:
    """Return run, shard and unit of a run's unit of this number, over all its shards."""
    shard, number = divmod(unit, UNITS_PER_SHARD)
    return {"run_id": run_id, "shard": shard, "unit": number}


def commit(lake: Lake, unit: int, rows: Mapping[str, Sequence[Row]]) -> None:
    """Commit a unit as a shard does."""
    if lake.commit_unit(**place_of("run", unit), rows=dict(rows), common=COMMON) != "committed":
        raise SystemExit(f"unit {unit} was committed before: a benchmark needs a lake of its own")


def grow(lake: Lake, num_commits: int, *, num_rows: int, files: Sequence[str]) -> None:
    """Append an earlier run of so many closed units of `num_rows` videos to every table."""
    shared = {**COMMON, **place_of("earlier", 0)}
    tables = rows_of(range(num_rows), files) | {"runs": [{"event": "unit"}]}
    for table, rows in tables.items():
        names = lake.table(table).column_names
        fitting = {name: value for name, value in shared.items() if name in names}
        block = rows_to_arrow(table, [{**fitting, **row} for row in rows])
        opened = lake.catalog.open_table(table)
        assert opened is not None, table
        for number in range(num_commits):
            place = place_of("earlier", number)
            first = number * num_rows
            rows_of_commit = _renumbered(block, range(first, first + block.num_rows), place)
            app = Transaction(f"{place['run_id']}:{place['shard']}", place["unit"])
            write_deltalake(
                opened,
                rows_of_commit,
                mode="append",
                commit_properties=CommitProperties(app_transactions=[app]),
            )


def _renumbered(block: pa.Table, numbers: range, place: Mapping[str, Any]) -> pa.Table:
    for index, field in enumerate(block.schema):
        if field.name in _NUMBERED:
            values = [_NUMBERED[field.name](number) for number in numbers]
        elif field.name in ("shard", "unit"):
            values = [place[field.name]] * len(numbers)
        else:
            continue
        block = block.set_column(index, field, pa.array(values, type=field.type))
    return block
