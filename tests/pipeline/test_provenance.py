"""Where an adapter comes from: every column of its row is filled, and true."""

import hashlib
import json
import os
import socket
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from storage import identity
from storage.lake import Lake, open_lake
from tasks.summary import RunSummary
from tests.pipeline.conftest import PROMPT, RANK
from video2lora_core.adapter import adapter_from_bytes
from video2lora_core.prompts import PromptLayout
from video2lora_core.quality import squared_norms

Run = Callable[..., RunSummary]
MAY_BE_EMPTY = {"model_revision", "is_random"}  # a directory has no revision; null says not random


@pytest.fixture(scope="module")
def model_name(model: str) -> str:
    return str(Path(model).parent / yaml.safe_load(Path(model).read_text())["vlm"]["path"])


@pytest.fixture
def made(run: Run, tmp_path: Path) -> tuple[RunSummary, Lake, list[dict[str, Any]]]:
    summary = run()
    lake = open_lake(tmp_path / "lake")
    rows = lake.query("select * from adapters order by video_id, start_us").to_pylist()
    assert len(rows) == 5
    return summary, lake, rows


def sha256_of(*paths: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_no_column_of_an_adapter_is_left_empty(made: tuple[RunSummary, Lake, Any]) -> None:
    for row in made[2]:
        assert {name for name, value in row.items() if value is None} <= MAY_BE_EMPTY


def test_an_adapter_names_its_video_span_and_frames(
    made: tuple[RunSummary, Lake, Any], corpus: Path
) -> None:
    long, short = sha256_of(corpus / "long.mp4", corpus / "short.mp4")
    spans = {(row["video_id"], row["start_us"], row["end_us"]) for row in made[2]}
    assert spans == {
        (long, 0, 4_000_000),
        (long, 4_000_000, 8_000_000),
        (long, 8_000_000, 10_000_000),
        (short, 0, 4_000_000),
        (short, 4_000_000, 6_000_000),
    }
    for row in made[2]:
        width = (row["end_us"] - row["start_us"]) // 4
        centres = [row["start_us"] + width // 2 + width * index for index in range(4)]
        assert row["frame_times_us"] == centres


def test_an_adapter_names_what_made_it(
    made: tuple[RunSummary, Lake, Any], model_dir: Path, model_name: str
) -> None:
    summary, lake, rows = made
    [weights] = sha256_of(model_dir / "vlm" / "model.safetensors")
    folder = model_dir / "hypernetwork0"
    lines = [
        f"{sha}  {name}\n"
        for name in ("hypernetwork.json", "hypernetwork.safetensors")
        for sha in sha256_of(folder / name)
    ]
    recipe_id, recipe = lake.latest_recipe()
    expected = {
        "recipe_id": identity.recipe_id(recipe),
        "run_id": summary.plan.run_id,
        "prompt": PromptLayout.from_mapping(PROMPT).internalization_prompt,
        "model_name": Path(model_name).name,
        "model_revision": None,
        "model_weights_sha256": weights,
        "checkpoint_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "code_version": version("video2lora"),
        "worker": f"{socket.gethostname()}:{os.getpid()}",
        "rank": RANK,
        "layers": [0, 1, 2],
        "modules": ["down_proj"],
        "dtype": "bfloat16",
        "device": "cpu",
    }
    for row in rows:
        assert {name: row[name] for name in expected} == expected
    assert recipe_id == expected["recipe_id"] == summary.plan.recipe_id
    for name in ("checkpoint_sha256", "model_weights_sha256"):
        assert recipe[name] == expected[name]


def test_an_adapter_names_its_attempt_and_what_it_took(
    made: tuple[RunSummary, Lake, Any], run: Run, tmp_path: Path, corpus: Path
) -> None:
    summary, lake, rows = made
    attempts = {row["attempt_id"] for row in rows}
    [planned] = lake.query(
        "select attempt_id, recipe from runs where event = 'planned'"
    ).to_pylist()
    assert attempts == {planned["attempt_id"]}
    assert json.loads(planned["recipe"])["stored_dtype"] == "bfloat16"
    assert all(0 < row["device_s"] < 60 for row in rows)
    second = run(stored_dtype="int8")
    others = lake.query("select * from adapters where dtype = 'int8'").to_pylist()
    assert len(others) == 5
    assert {row["run_id"] for row in others} == {second.plan.run_id} != {summary.plan.run_id}
    assert {row["attempt_id"] for row in others}.isdisjoint(attempts)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_an_adapter_row_tells_what_its_file_holds(run: Run, tmp_path: Path, dtype: str) -> None:
    run(stored_dtype=dtype)
    lake = open_lake(tmp_path / "lake")
    for row in lake.query("select * from adapters").to_pylist():
        data = lake.adapters.get(row["adapter_sha256"])
        adapter = adapter_from_bytes(data)
        assert hashlib.sha256(data).hexdigest() == row["adapter_sha256"]
        assert (len(data), adapter.rank) == (row["size_bytes"], row["rank"])
        assert (adapter.scaling, adapter.checkpoint_sha256) == (
            row["scaling"],
            row["checkpoint_sha256"],
        )
        squares = squared_norms(adapter)
        for what in ("A", "B", "update"):
            norm = float(squares[f"down_proj.{what}"].sum()) ** 0.5
            assert norm == pytest.approx(row[f"norm_{what.lower()}"], rel=0.02)
