"""The quality gate: what passes, what is rejected with which figures, and what bounds are."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.adapter_factory import random_adapter, updates
from video2lora_core import quality
from video2lora_core.adapter import Adapter
from video2lora_core.errors import CheckpointError, Reason, UsageError
from video2lora_core.quality import (
    Bound,
    QualityBounds,
    bounds_as_json,
    bounds_from_json,
    learn_bounds,
    log_norms,
    squared_norms,
)

FIGURES = {
    f"{module}.{layer}.{what}"
    for module in ("down_proj", "gate_proj")
    for layer in (0, 2)
    for what in ("A", "B", "update")
}


def figures(adapter: Adapter) -> dict[str, float]:
    return log_norms(adapter.layers, squared_norms(adapter))


def check(adapter: Adapter, bounds: QualityBounds | None = None) -> tuple[Reason, str] | None:
    return quality.check(adapter, bounds, squared_norms(adapter))


@pytest.fixture(scope="module")
def bounds() -> QualityBounds:
    return learn_bounds([figures(random_adapter(seed=seed)) for seed in range(64)])


def changed(adapter: Adapter, module: str, *, a: float = 1.0, b: float = 1.0) -> Adapter:
    factors = dict(adapter.factors)
    factors[module] = replace(factors[module], a=a * factors[module].a, b=b * factors[module].b)
    return replace(adapter, factors=factors)


def test_the_figures_are_the_logarithms_of_the_norms_layer_by_layer():
    adapter = random_adapter(seed=7)
    found = figures(adapter)
    assert set(found) == FIGURES
    for name, factors in adapter.factors.items():
        for position, layer in enumerate(adapter.layers):
            expected = {
                "A": factors.a[position].norm(),
                "B": factors.b[position].norm(),
                "update": updates(adapter)[name][position].norm(),
            }
            for what, norm in expected.items():
                assert found[f"{name}.{layer}.{what}"] == pytest.approx(math.log(norm), abs=1e-5)


def test_numbers_whose_squares_float32_cannot_hold_still_have_a_norm():
    plain, found = (
        figures(random_adapter()),
        figures(changed(random_adapter(), "down_proj", a=1e30)),
    )
    for what in ("A", "update"):
        grown = plain[f"down_proj.0.{what}"] + 30 * math.log(10)
        assert found[f"down_proj.0.{what}"] == pytest.approx(grown)


@given(
    st.sampled_from([math.nan, math.inf, -math.inf, 3.4e38]),
    st.sampled_from(["down_proj", "gate_proj"]),
    st.sampled_from(["a", "b"]),
    st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 15)),
)
def test_one_number_that_is_none_is_found_wherever_it_stands(bad, module, side, place):
    adapter = random_adapter()
    getattr(adapter.factors[module], side)[place] = bad
    reason, detail = check(adapter)
    assert reason is Reason.NON_FINITE
    assert f"{module}.{adapter.layers[place[0]]}.{side.upper()} (1 of " in detail


def test_large_numbers_that_every_stored_type_holds_are_finite():
    adapter = random_adapter()
    adapter.factors["down_proj"].a[0, 0, 0] = 3.3e38
    assert check(adapter) is None


def test_without_bounds_only_finiteness_counts():
    assert check(changed(random_adapter(), "down_proj", b=1e6)) is None
    assert check(changed(random_adapter(), "down_proj", b=0.0)) is None


def test_adapters_like_those_that_were_learned_from_pass(bounds):
    assert [check(random_adapter(seed=seed), bounds) for seed in range(100, 300)] == [None] * 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"b": 8.0}, "down_proj.0.B"),
        ({"a": 8.0}, "down_proj.0.A"),
        ({"b": 0.0}, "down_proj.0.B -inf"),
        ({"a": 1e-3}, "down_proj.0.A"),
    ],
)
def test_a_norm_out_of_bounds_is_named_with_its_figure(bounds, change, named):
    reason, detail = check(changed(random_adapter(seed=500), "down_proj", **change), bounds)
    assert reason is Reason.NORM_OUTLIER
    assert detail.startswith(f"log norms out of bounds: {named}")
    assert "(bounds " in detail
    assert detail.endswith(" and 1 more")  # of two layers, a factor and the update each: 4


def test_a_weaker_adapter_passes_where_an_equally_stronger_one_does_not(bounds):
    assert check(changed(random_adapter(seed=500), "down_proj", b=1 / 4), bounds) is None
    assert check(changed(random_adapter(seed=500), "down_proj", b=4.0), bounds) is not None


def test_bounds_are_the_middle_of_the_segments_with_room_on_both_sides():
    learned = learn_bounds([{"x": value / 1000} for value in range(1001)])
    assert learned.num_segments == 1001
    assert learned.log_norms["x"].lower == pytest.approx(0.005 - math.log(8))
    assert learned.log_norms["x"].upper == pytest.approx(0.995 + math.log(2))


def test_one_wrong_segment_of_256_moves_no_bound():
    usual = [{"x": math.sin(index)} for index in range(255)]
    calm = learn_bounds([*usual, {"x": 0.0}]).log_norms["x"]
    for outlier in (-50.0, 50.0):
        moved = learn_bounds([*usual, {"x": outlier}]).log_norms["x"]
        assert moved.lower == pytest.approx(calm.lower, abs=0.01)
        assert moved.upper == pytest.approx(calm.upper, abs=0.01)


def test_too_few_segments_or_norms_of_zero_teach_nothing():
    one = figures(random_adapter())
    with pytest.raises(UsageError, match=r"31 segments \(expected at least 32\); give more"):
        learn_bounds([one] * 31)
    dead = figures(changed(random_adapter(), "gate_proj", b=0.0))
    with pytest.raises(UsageError, match=r"gate_proj\.0\.B, .* and 1 more not finite or zero"):
        learn_bounds([one] * 40 + [dead])


def test_bounds_read_back_from_json_no_narrower(bounds):
    read = bounds_from_json(
        json.loads(json.dumps(bounds_as_json(bounds))), expected=FIGURES, where="here"
    )
    assert read.num_segments == bounds.num_segments
    for name, bound in bounds.log_norms.items():
        assert bound.lower - 1e-4 <= read.log_norms[name].lower <= bound.lower
        assert bound.upper <= read.log_norms[name].upper <= bound.upper + 1e-4


@pytest.mark.parametrize("content", [[], {}, {"log_norms": {"x": [1]}, "num_segments": 1}, "no"])
def test_damaged_bounds_are_refused(content):
    with pytest.raises(CheckpointError, match=r"here: its bounds cannot be read .*calibrate"):
        bounds_from_json(content, expected={"x"}, where="here")


def test_bounds_of_other_layers_are_refused(bounds):
    with pytest.raises(CheckpointError, match=r"its bounds are for .*expected x"):
        bounds_from_json(bounds_as_json(bounds), expected={"x"}, where="here")


def test_bounds_hold_both_ends():
    adapter = random_adapter()
    exact = {name: Bound(lower=figure, upper=figure) for name, figure in figures(adapter).items()}
    assert check(adapter, QualityBounds(log_norms=exact, num_segments=32)) is None
