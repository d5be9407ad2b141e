"""A look at a lake counts what is committed, and nothing twice."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.lake import Lake
from storage.overview import Overview, look_at
from storage.schemas import TABLES, rows_to_arrow

BEGIN = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
RECIPE = {"recipe_id": "recipe-1"}


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def unit(run_id: str, shard: int, number: int, end_s: float, **changed: Any) -> dict[str, Any]:
    return {
        **RECIPE,
        "run_id": run_id,
        "shard": shard,
        "unit": number,
        "event": "unit",
        "created_at": at(end_s),
        "attempt_id": "first",
        "worker": "host:1",
        "num_segments": 10,
        "num_adapters": 9,
        "num_rejects": 1,
        "covered_us": 270_000_000,
        "device_s": 4.0,
        "decode_s": 6.0,
        "wall_s": 10.0,
        **changed,
    }


def event(run_id: str, name: str, at_s: float, **changed: Any) -> dict[str, Any]:
    return {**RECIPE, "run_id": run_id, "event": name, "created_at": at(at_s), **changed}


def test_a_run_is_added_up_over_its_shards_and_attempts(lake: Lake, rows: Any) -> None:
    lake.append(
        "runs",
        [
            event("old", "planned", 0, corpus="first", num_videos=3),
            event("run", "planned", 100, corpus="street", num_videos=4),
            event("run", "planned", 300, corpus="street", num_videos=4),
            unit("run", 0, 0, 120),
            unit("run", 1, 0, 125),  # beside the first for five of its ten seconds
            unit("run", 0, 1, 320, attempt_id="second", worker="host:2"),
            event("run", "published", 330),
            event("maintenance", "maintenance", 400),
        ],
    )
    for name in ("a", "b"):
        place = {"run_id": "run", "shard": 0, "unit": 0, **RECIPE}
        lake.append("videos", [{**place, **rows.video(f"/{name}.mp4", name)}])
    with look_at(lake) as seen:
        newest, oldest = seen.runs()
        first, second = seen.shards()
    assert (newest["run_id"], newest["state"]) == ("run", "published")
    assert (oldest["run_id"], oldest["state"], oldest["num_units"]) == ("old", "planned", 0)
    assert newest["corpus"] == "street"
    assert newest["num_planned_videos"] == 4
    assert newest["num_met_videos"] == 2
    assert newest["num_segments"] == 30
    assert newest["num_rejects"] == 3
    assert newest["video_hours"] == pytest.approx(810 / 3600)
    assert newest["device_s"] == 12.0
    assert newest["wall_s"] == 30.0
    assert newest["active_s"] == 25.0  # 110 to 125, and 310 to 320
    assert (first["num_units"], first["num_attempts"], first["worker"]) == (2, 2, "host:2")
    assert (second["num_units"], second["num_met"], second["is_closed"]) == (1, 0, False)


def test_a_run_that_is_asked_for_is_looked_at_alone(lake: Lake) -> None:
    lake.append("runs", [unit("abc1", 0, 0, 10), unit("abd2", 0, 0, 20)])
    with look_at(lake, run="abd") as seen:
        assert [row["run_id"] for row in seen.runs()] == ["abd2"]
        assert len(seen.units()) == 1


def test_a_lakes_rejects_are_the_open_ones_and_a_runs_are_all_it_met(lake: Lake, rows: Any) -> None:
    source = rows.source("/bad.mp4", None)
    bad = {**source, **RECIPE, "shard": 0, "unit": 0, "reason": "NOT_MEDIA", "detail": "words"}
    for attempt, run in enumerate(("one", "two"), start=1):
        row = {**bad, "run_id": run, "attempt": attempt, "is_terminal": False}
        lake.append("rejects", [{**row, "created_at": at(attempt)}])
    expected = {
        "reason": "NOT_MEDIA",
        "num_rejects": 1,
        "num_terminal": 0,
        "example": "/bad.mp4",
        "detail": "words",
    }
    for run in ("", "one", "two"):
        with look_at(lake, run=run) as seen:
            assert seen.rejects() == [expected]
            assert [row["what"] for row in seen.reject_examples()] == ["/bad.mp4"]
            assert seen.reject_examples()[0]["attempt"] == (1 if run == "one" else 2)


def test_the_lakes_size_counts_each_file_once(lake: Lake, rows: Any) -> None:
    adapter = rows.adapter(lake, "v", 0)
    place = {"shard": 0, "unit": 0, **RECIPE}
    lake.append("adapters", [{**place, **adapter, "run_id": run} for run in ("a", "b")])
    lake.append("adapters", [{**place, **rows.adapter(lake, "v", 1), "run_id": "a"}])
    with look_at(lake) as seen:
        size = seen.size()
        spans = seen.spans([adapter["adapter_sha256"]])
    assert size == {"num_videos": 0, "num_adapters": 2, "adapter_bytes": 8}
    assert spans == {adapter["adapter_sha256"]: (0, 30_000_000)}


def test_an_empty_lake_has_nothing_to_show(lake: Lake) -> None:
    with look_at(lake) as seen:
        assert seen.runs() == seen.shards() == seen.rejects() == seen.answers() == []
        assert seen.lengths() == seen.slowest_videos() == seen.units() == []
        assert seen.size() == {"num_videos": 0, "num_adapters": 0, "adapter_bytes": 0}


def covered(spans: Sequence[tuple[int, int]]) -> int:
    """The length of a union of spans, second by second."""
    return len({second for begin, end in spans for second in range(begin, end)})


SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 15)).map(lambda s: (s[0], s[0] + s[1])),
    min_size=1,
    max_size=12,
)


@settings(max_examples=4)
@given(runs=st.lists(SPANS, min_size=15, max_size=20))
def test_time_at_work_is_the_union_of_the_units_spans(
    runs: list[list[tuple[int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    units = [
        unit(f"{place:02}", 0, number, end, wall_s=float(end - begin))
        for place, spans in enumerate(runs)
        for number, (begin, end) in enumerate(spans)
    ]
    path = tmp_path_factory.mktemp("runs") / "runs.parquet"
    _write(path, rows_to_arrow("runs", units))
    files = {table: [str(path)] if table == "runs" else [] for table in TABLES}
    with Overview(files) as seen:
        found = {row["run_id"]: row["active_s"] for row in seen.runs()}
    assert found == {f"{place:02}": covered(spans) for place, spans in enumerate(runs)}


def _write(path: Path, rows: pa.Table) -> None:
    pq.write_table(rows, path)
