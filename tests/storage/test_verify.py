"""A check names every fault, and reading what is damaged says so in one line."""

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import StorageError
from storage.faults import Checked
from storage.identity import sha256_hex
from storage.keeper import Keeper
from storage.lake import Lake
from storage.tensor_header import disagreements, not_finite, read_header
from storage.verify import Scope, untiled

Commit = Callable[..., str]
CHECKPOINT = "c" * 64


def adapter_file(
    *, rank: int = 16, num_layers: int = 2, salt: int = 0, value: int = 0x3F80, kind: str = "BF16"
) -> bytes:
    """An adapter as the pipeline writes it, without torch."""
    tensors: dict[str, Any] = {}
    body = b""
    for side in "AB":
        words = np.full(num_layers * rank * 4, value, dtype="<u2")
        words[0] = salt
        part = words.tobytes()
        shape = [num_layers, rank, 4]
        place = [len(body), len(body) + len(part)]
        tensors[f"down_proj.{side}"] = {"dtype": kind, "shape": shape, "data_offsets": place}
        body += part
    header = json.dumps({"__metadata__": {"checkpoint_sha256": CHECKPOINT}, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + body


def real(lake: Lake, row: dict[str, Any], data: bytes) -> dict[str, Any]:
    return {**row, "adapter_sha256": lake.adapters.put(data), "size_bytes": len(data)}


@pytest.fixture
def good(lake: Lake, rows: Any, commit: Commit) -> Lake:
    """A lake of one video of two segments, whole."""
    lake.put_checkpoint(CHECKPOINT, {"config.json": b"{}", "model.safetensors": b"weights"})
    adapters = [real(lake, rows.adapter(lake, "v", i), adapter_file(salt=i)) for i in range(2)]
    videos = {"sources": [rows.source("/v.mp4", "v")], "videos": [rows.video("/v.mp4", "v")]}
    commit(lake, adapters, **videos)
    done = {"run_id": "run", "recipe_id": rows.recipe_id, "event": "published"}
    lake.append("runs", [done])
    return lake


def check(lake: Lake, **options: Any) -> Checked:
    return Keeper(lake).verify(Scope(**options))


def only_fault(lake: Lake, kind: str, **options: Any) -> str:
    """Return what the one fault of a lake says, with its place and its fix."""
    faults = check(lake, **options).faults
    assert [fault.kind for fault in faults] == [kind]
    assert faults[0].fix
    return f"{faults[0].where}: {faults[0].what}"


def first_adapter(lake: Lake) -> tuple[Path, str]:
    row = lake.table("adapters").sort_by("start_us").to_pylist()[0]
    return Path(lake.adapters.uri(row["adapter_sha256"])), row["adapter_sha256"]


def table_file(lake: Lake, table: str) -> Path:
    return Path(lake.catalog.file_uris(table)[0])


@pytest.mark.parametrize("options", [{}, {"is_quick": True}, {"num_sampled": 1}])
def test_a_whole_lake_has_no_fault(good: Lake, options: dict[str, Any]) -> None:
    checked = check(good, **options)
    assert checked.faults == []
    assert checked.counts["adapters"] == options.get("num_sampled", 2)
    assert (checked.counts["tables"], checked.counts["videos"]) == (10, 1)
    # The rows' factory put two more files, which no row names: counted, and no fault.
    assert checked.counts["orphans"] == 2


def test_a_flipped_byte_of_an_adapter_is_named(good: Lake) -> None:
    path, sha256 = first_adapter(good)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert str(path) in only_fault(good, "adapter_changed")
    assert check(good, is_quick=True).faults == []
    with pytest.raises(StorageError, match=rf"{sha256}.*its bytes have changed") as said:
        good.adapters.get(sha256)
    assert "\n" not in str(said.value)


def test_a_deleted_adapter_is_named(good: Lake) -> None:
    path, sha256 = first_adapter(good)
    path.unlink()
    for options in ({}, {"is_quick": True}):
        assert str(path) in only_fault(good, "adapter_missing", **options)
    with pytest.raises(StorageError, match=rf"{sha256}.*no such file"):
        good.adapters.get(sha256)


def test_a_truncated_adapter_is_seen_without_reading_it(good: Lake) -> None:
    path, _ = first_adapter(good)
    path.write_bytes(path.read_bytes()[:-10])
    assert "expected" in only_fault(good, "adapter_changed", is_quick=True)


@pytest.mark.parametrize("table", ["adapters", "segments", "videos", "runs"])
def test_a_truncated_table_file_is_named_and_reading_says_so(good: Lake, table: str) -> None:
    path = table_file(good, table)
    path.write_bytes(path.read_bytes()[:-20])
    said = only_fault(good, "table_file")
    assert str(path) in said
    assert "it was cut short or replaced" in said
    with pytest.raises(StorageError, match=path.name) as failed:
        good.query(f"select * from raw.{table}")
    assert "\n" not in str(failed.value)
    assert "video2lora verify" in str(failed.value)
    with pytest.raises(StorageError, match=path.name) as failed:
        good.table(table)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("table", ["adapters", "compositions"])
def test_a_deleted_table_file_is_named_and_reading_says_so(good: Lake, table: str) -> None:
    path = table_file(good, table)
    path.unlink()
    said = only_fault(good, "table_file")
    assert str(path) in said
    assert "it is not there" in said
    with pytest.raises(StorageError, match=path.name) as failed:
        good.query(f"select * from {table}")
    assert "\n" not in str(failed.value)
    with pytest.raises(StorageError, match="video2lora verify"):
        good.table(table)


def test_a_flipped_byte_inside_a_table_file_is_found_by_reading_it_all(good: Lake) -> None:
    path = table_file(good, "segments")
    data = bytearray(path.read_bytes())
    data[:4] = b"XXXX"
    data[4:60] = bytes(56)
    path.write_bytes(data)
    assert str(path) in only_fault(good, "table_file")


@pytest.mark.parametrize("file", ["model.safetensors", "SHA256SUMS.json"])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_an_emptied_or_deleted_file_of_a_checkpoint_is_named(
    good: Lake, file: str, is_deleted: bool
) -> None:
    path = Path(good.uri) / "checkpoints" / CHECKPOINT / file
    path.unlink() if is_deleted else path.write_bytes(b"")
    assert str(path) in only_fault(good, "checkpoint")
    with pytest.raises(StorageError, match=file):
        good.get_checkpoint(CHECKPOINT)


def test_a_damaged_plan_is_named(good: Lake) -> None:
    path = Path(good.uri) / "plans" / f"{'a' * 64}.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"PAR1 no")
    assert str(path) in only_fault(good, "plan")


def test_wrong_shapes_and_numbers_that_are_not_finite_are_named(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    lake.put_checkpoint(CHECKPOINT, {"config.json": b"{}"})
    files = [adapter_file(rank=8), adapter_file(value=0x7F80), b"no tensors"]
    adapters = [real(lake, rows.adapter(lake, "v", i), data) for i, data in enumerate(files)]
    commit(lake, adapters)
    found = {fault.kind: fault for fault in check(lake).faults}
    assert set(found) == {"adapter_shape", "adapter_not_finite"}
    said = [fault.what for fault in check(lake).faults]
    assert "down_proj.A has shape [2, 8, 4], expected [2, 16, d]" in said
    assert "down_proj.B holds an infinity or a NaN" in said
    assert "not a safetensors file" in said


def test_every_header_that_disagrees_with_its_row_says_how() -> None:
    row = {"modules": ["down_proj"], "layers": [0, 1], "rank": 16, "dtype": "bfloat16"}
    row["checkpoint_sha256"] = CHECKPOINT
    header = read_header(adapter_file())
    assert list(disagreements(header, row)) == []
    for column, value in (
        ("modules", ["up_proj"]), ("layers", [0]), ("rank", 8), ("dtype", "float32"),
        ("checkpoint_sha256", "d" * 64),
    ):  # fmt: skip
        assert list(disagreements(header, {**row, column: value})), column


@pytest.mark.parametrize(
    ("value", "kind", "is_finite"),
    [
        (0x7F7F, "BF16", True), (0x7F80, "BF16", False), (0xFFC0, "BF16", False),
        (0x7BFF, "F16", True), (0x7C00, "F16", False), (0xFE00, "F16", False),
    ],
)  # fmt: skip
def test_infinities_and_nans_are_told_from_the_largest_numbers(
    value: int, kind: str, is_finite: bool
) -> None:
    data = adapter_file(value=value, kind=kind)
    assert (not_finite(read_header(data), data) == []) == is_finite


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_header_is_refused_or_read_but_never_raises_anything_else(
    at: int, value: int
) -> None:
    data = bytearray(adapter_file())
    data[at % len(data)] = value
    with suppress(ValueError):
        assert isinstance(read_header(bytes(data[: len(data) - at])), dict)


@pytest.mark.parametrize("is_published", [False, True])
def test_a_gap_is_a_fault_once_its_run_is_published(
    lake: Lake, rows: Any, commit: Commit, is_published: bool
) -> None:
    lake.put_checkpoint(CHECKPOINT, {"config.json": b"{}"})
    adapters = [real(lake, rows.adapter(lake, "v", i), adapter_file(salt=i)) for i in (0, 2)]
    commit(lake, adapters, videos=[rows.video("/v.mp4", "v", num_segments=4)])
    if is_published:
        done = {"run_id": "run", "recipe_id": rows.recipe_id, "event": "published"}
        lake.append("runs", [done])
        said = only_fault(lake, "coverage_gap")
        assert "[30000000, 60000000)" in said
        assert "[90000000, 120000000)" in said
    else:
        checked = check(lake)
        assert checked.faults == []
        assert checked.counts["videos_in_work"] == 1


def test_segments_that_overlap_are_a_fault_though_their_sum_is_right(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    lake.put_checkpoint(CHECKPOINT, {"config.json": b"{}"})
    first = real(lake, rows.adapter(lake, "v", 0), adapter_file())
    second = real(lake, rows.adapter(lake, "v", 1), adapter_file(salt=1))
    second = {**second, "start_us": 20_000_000, "end_us": 50_000_000}
    commit(lake, [first, second], videos=[rows.video("/v.mp4", "v")])
    assert lake.query("select missing_us from coverage").to_pylist() == [{"missing_us": 0}]
    assert "two segments cover [20000000, 30000000) us" in only_fault(lake, "coverage_overlap")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_only_spans_that_tile_leave_nothing_uncovered(lengths: list[int], data: Any) -> None:
    ends = np.cumsum(lengths).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    assert untiled(set(spans), ends[-1]) == ([], [])
    lost = data.draw(st.sampled_from(spans))
    gaps, overlaps = untiled(set(spans) - {lost}, ends[-1])
    assert (gaps, overlaps) == ([lost], [])
    grown = (lost[0], lost[1] + 1)
    assert untiled(set(spans) - {lost} | {grown}, ends[-1])[1]


def test_a_composition_without_its_parent_is_named(good: Lake, rows: Any) -> None:
    parent = sha256_hex(b"gone")
    row = rows.composition([{"adapter_sha256": parent, "video_id": rows.video_id("v")}])
    place = {**rows.common(), "run_id": "run", "shard": 0, "unit": 1}
    place.pop("worker")
    good.append("compositions", [{**row, **place}])
    assert parent in only_fault(good, "parent_missing")


def test_a_row_that_is_there_twice_is_named(good: Lake) -> None:
    rows = good.table("adapters").to_pylist()
    good.append("adapters", rows[:1])
    assert "has it 2 times" in only_fault(good, "doubled_row")


def test_one_video_can_be_checked_alone(good: Lake, rows: Any, commit: Commit) -> None:
    other = real(good, rows.adapter(good, "w", 0), adapter_file(salt=9))
    commit(good, [other], unit=1)
    Path(good.adapters.uri(other["adapter_sha256"])).unlink()
    assert check(good, video_id=rows.video_id("v")).faults == []
    assert len(check(good, video_id=rows.video_id("w")).faults) == 1
