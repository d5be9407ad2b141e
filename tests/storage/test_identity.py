"""Ids depend on content, and on nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import identity


def test_a_recipe_id_does_not_depend_on_the_order_of_its_settings() -> None:
    first = identity.recipe_id({"segment_us": 30_000_000, "model": {"b": 1, "a": [1, 2]}})
    second = identity.recipe_id({"model": {"a": [1, 2], "b": 1}, "segment_us": 30_000_000})
    assert first == second
    assert first != identity.recipe_id({"segment_us": 30_000_001, "model": {"b": 1, "a": [1, 2]}})


def test_ids_stay_the_same_from_release_to_release() -> None:
    assert identity.canonical_json({"b": 1, "a": "\u00e9"}) == '{"a":"\\u00e9","b":1}'
    assert identity.recipe_id({"a": 1}).startswith("015abd7f5cc57a2d")
    assert identity.adapter_key("r", "v", 0, 30).startswith("1cac97c16688")
    assert identity.source_id("/videos/a.mp4").startswith("9ec49090b225")


def test_a_recipe_with_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        identity.recipe_id({"scaling": float("nan")})


WORDS = st.text(alphabet="ab0/\u00e9", max_size=8)


@given(WORDS, WORDS, st.integers(0, 2**62), st.integers(0, 2**62))
def test_different_questions_have_different_keys(
    recipe: str, video: str, start_us: int, end_us: int
) -> None:
    key = identity.adapter_key(recipe, video, start_us, end_us)
    assert key == identity.adapter_key(recipe, video, start_us, end_us)
    assert key != identity.adapter_key(recipe, video, start_us, end_us + 1)
    assert key != identity.adapter_key(recipe + "x", video, start_us, end_us)


def test_a_composition_id_follows_parents_order_and_coefficients() -> None:
    def of(parents: list[str], coefficients: list[float]) -> str:
        return identity.composition_id(
            recipe_id="r", method="concat", parents=parents, coefficients=coefficients
        )

    assert of(["a", "b"], [1, 1]) == of(["a", "b"], [1.0, 1.0])
    assert len({of(["a", "b"], [1, 1]), of(["b", "a"], [1, 1]), of(["a", "b"], [1, 2])}) == 3
