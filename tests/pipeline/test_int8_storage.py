"""A lake of int8 adapters: half the bytes, asked like any other, every flipped byte is seen."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from configs.schema import InternalizeConfig
from flows.api import open_lake
from storage.errors import AdapterIntegrityError
from storage.keeper import Keeper
from storage.tensor_header import disagreements, read_header
from tasks.internalize_batch import StoredDtype
from tasks.recipe import make_recipe
from tasks.summary import RunSummary
from video2lora_core.adapter import FORMAT_VERSIONS, adapter_from_bytes

Run = Callable[..., RunSummary]

QUESTION = "How many objects are there?"


def test_int8_is_another_recipe_of_half_the_bytes(run: Run, tmp_path: Path) -> None:
    plain, small = run(), run(stored_dtype="int8")
    assert plain.plan.recipe_id != small.plan.recipe_id
    opened = open_lake(str(tmp_path / "lake"))
    sql = "select dtype, avg(size_bytes) as bytes from adapters group by 1 order by 1"
    sizes = {row["dtype"]: row["bytes"] for row in opened.sql(sql).to_pylist()}
    payload = 3 * 2 * (128 + 64)  # layers, rank, widths of the tiny model
    assert sizes["bfloat16"] - sizes["int8"] == pytest.approx(payload, abs=400)
    sql = "select recipe_id, adapter_sha256 from adapters where dtype = 'int8'"
    for row in opened.sql(sql).to_pylist():
        assert row["recipe_id"] == small.plan.recipe_id
        assert adapter_from_bytes(opened.lake.adapters.get(row["adapter_sha256"])).rank == 2


def test_every_stored_type_has_its_format_and_floats_keep_theirs() -> None:
    allowed = get_args(InternalizeConfig.model_fields["stored_dtype"].annotation)
    assert set(allowed) == set(FORMAT_VERSIONS) == set(get_args(StoredDtype))
    found = {
        dtype: make_recipe(InternalizeConfig(corpus="x", lake="y", stored_dtype=dtype)).content[
            "format_version"
        ]
        for dtype in allowed
    }
    assert found == {"bfloat16": "1", "float32": "1", "int8": "2"}


def test_a_video_of_int8_adapters_is_asked_like_any_other(
    run: Run, model: str, tmp_path: Path
) -> None:
    run(stored_dtype="int8")
    opened = open_lake(str(tmp_path / "lake"), model=model)
    answer = opened.ask(QUESTION, video="long.mp4", max_new_tokens=4)
    assert answer.num_visual_tokens == 0
    assert opened.adapter("long.mp4").rank == 3 * 2 + 2


def test_a_lake_of_every_stored_type_is_found_whole_and_a_wrong_type_is_told(
    run: Run, tmp_path: Path
) -> None:
    for dtype in get_args(StoredDtype):
        run(stored_dtype=dtype)
    lake = open_lake(str(tmp_path / "lake")).lake
    checked = Keeper(lake).verify()
    assert checked.faults == []
    rows = lake.table("adapters").to_pylist()
    assert checked.counts["adapters"] == len(rows) == 3 * 5
    for row in rows:
        header = read_header(lake.adapters.get(row["adapter_sha256"]))
        assert list(disagreements(header, row)) == []
        others = set(get_args(StoredDtype)) - {row["dtype"]}
        assert all(list(disagreements(header, {**row, "dtype": other})) for other in others)


def test_a_flipped_byte_is_caught_wherever_it_stands_and_however_it_is_read(
    run: Run, model: str, tmp_path: Path
) -> None:
    run(stored_dtype="int8")
    opened = open_lake(str(tmp_path / "lake"), model=model)
    sha256 = opened.pick("long.mp4").rows[0]["adapter_sha256"]
    path = Path(opened.lake.adapters.uri(sha256))
    whole = path.read_bytes()
    for place in (0, 8, 60, len(whole) // 2, len(whole) - 1):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        path.write_bytes(flipped)
        for read in (
            lambda: opened.lake.adapters.get(sha256),
            lambda: opened.compose([sha256]),
            lambda: opened.adapter("long.mp4"),
            lambda: opened.ask(QUESTION, video="long.mp4"),
            lambda: opened.compose([sha256]),
        ):
            with pytest.raises(AdapterIntegrityError, match="its bytes have changed"):
                read()
    path.write_bytes(whole)
    assert opened.compose([sha256]).has_bias
