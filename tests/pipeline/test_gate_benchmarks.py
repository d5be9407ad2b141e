"""The figures of docs/quality.md, on fewer segments: what the gate sees, and what int8 costs."""

import itertools
from pathlib import Path

import pytest

from benchmarks import quality_gate, stored_dtype
from configs.load import load_model_config
from configs.schema import ModelConfig
from tasks.calibrate import rendered_segments
from tasks.models import LoadedModel, load_model

NUM_SEGMENTS = 8
PAGE = (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_model_config("tiny")


@pytest.fixture(scope="module")
def loaded(config: ModelConfig) -> LoadedModel:
    return load_model(config)


def test_the_gate_passes_good_segments_and_catches_the_faults_that_the_page_names(
    loaded: LoadedModel, config: ModelConfig
) -> None:
    rendered = rendered_segments(config, first_seed=quality_gate.HELD_OUT_SEED)
    rows = quality_gate.measure(loaded, list(itertools.islice(rendered, NUM_SEGMENTS)))
    assert all(f"| {name} |" in PAGE for name in rows)
    passed = {name for name, counts in rows.items() if counts["passed"] == counts["segments"]}
    caught = {name for name, counts in rows.items() if counts["passed"] == 0}
    assert {"held-out segments", "frames of pure noise", "black frames", "B times -1"} <= passed
    assert {"one NaN", "one infinity", "zeroed", "B times 8", "A times 8", "B times 4"} <= caught
    assert {name for name in rows if "head" in name} - caught == {"one layer's head: shuffled"}
    assert rows["one NaN"]["NON_FINITE"] == NUM_SEGMENTS
    assert rows["zeroed"]["NORM_OUTLIER"] == NUM_SEGMENTS


def test_int8_halves_the_bytes_and_changes_no_answer(
    loaded: LoadedModel, config: ModelConfig
) -> None:
    films = stored_dtype.films(loaded, config, num_segments=2, count=2)
    exact, half, small = stored_dtype.compare(loaded, films)
    assert exact["max_update_error"] == exact["max_logit_difference"] == 0
    assert half["max_update_error"] < 0.004 < small["max_update_error"] < 0.02
    assert small["bytes"] < 0.55 * half["bytes"]
    assert small["max_logit_difference"] < 0.3
    assert half["num_answers_changed"] == small["num_answers_changed"] == 0


def test_other_ways_to_make_int8_gain_little() -> None:
    rows = stored_dtype.ways("wide", [stored_dtype.wide_adapter()])
    errors = {row["way"]: row["mean_update_error"] for row in rows}
    layer, row, cut, group = errors.values()
    assert group < row <= layer
    assert cut == pytest.approx(row, rel=0.05)
