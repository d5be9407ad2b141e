"""A sight: equal where the visual tokens are, and different where anything may change them."""

from pathlib import Path

import pytest

from tasks.sight import BEYOND_SIGHT, make_sight, within_sight
from tests.pipeline.conftest import PROMPT, write_model
from tests.pipeline.token_runs import recipe_of, variant


@pytest.fixture(scope="module")
def other(model_dir: Path) -> str:
    """The same frozen model with another hypernetwork checkpoint."""
    return str(write_model(model_dir, seed=1))


def test_what_comes_after_the_vision_tower_leaves_the_sight_as_it_is(
    model: str, other: str
) -> None:
    longer = {**PROMPT, "video_footer": "Remember this. {text}<end_of_utterance>\n"}
    recipes = [
        recipe_of(model),
        recipe_of(other),
        recipe_of(model, stored_dtype="int8"),
        recipe_of(model, approximations={"top_ranks": 1}),
        recipe_of(variant(model, "prompt", prompt=longer)),
        recipe_of(
            variant(
                model,
                "rule",
                segments={"segment_s": 5.0, "min_tail_s": 1.0, "num_frames": 4},
            )
        ),
    ]
    assert len({recipe.recipe_id for recipe in recipes}) == len(recipes)
    assert len({make_sight(recipe).sight_id for recipe in recipes}) == 1


def test_whatever_decides_the_tokens_makes_another_sight(model: str, model_dir: Path) -> None:
    segments = {"segment_s": 4.0, "min_tail_s": 2.0}
    pixels = {"longest_edge_px": 32, "size_px": 32}
    vlm = {"path": "vlm", "device": "cpu"}
    recipes = [
        recipe_of(model),
        recipe_of(model, decoder="decord") if _has_decord() else None,
        recipe_of(variant(model, "frames", segments={**segments, "num_frames": 8})),
        recipe_of(variant(model, "edge", pixels={**pixels, "longest_edge_px": 24})),
        recipe_of(variant(model, "pil", pixels={**pixels, "resize": "pil"})),
        recipe_of(variant(model, "dtype", vlm={**vlm, "dtype": "bfloat16"})),
        recipe_of(variant(model, "weights", random_seed=3)),
        recipe_of(model, approximations={"frames": "keyframes"}),
        recipe_of(model, approximations={"vision_px": 16}),
    ]
    given = [recipe for recipe in recipes if recipe is not None]
    assert len({make_sight(recipe).sight_id for recipe in given}) == len(given)


def _has_decord() -> bool:
    try:
        import decord  # noqa: F401  (only on x86_64)
    except ImportError:
        return False
    return True


def test_every_field_of_a_recipe_reaches_the_sight_unless_it_is_named(model: str) -> None:
    vlm = {"path": "vlm", "device": "cpu", "dtype": "bfloat16"}
    everything = variant(model, "everything", vlm=vlm)
    content = recipe_of(everything, approximations={"top_ranks": 1}).content
    assert content.keys() >= BEYOND_SIGHT, "BEYOND_SIGHT names a field that no recipe has"
    assert within_sight(content).keys() == content.keys() - BEYOND_SIGHT
    assert within_sight({**content, "new": 1})["new"] == 1
    fewer = within_sight({**content, "top_ranks": 2})
    assert fewer == within_sight(content)
