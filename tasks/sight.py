"""A sight: what decides the visual tokens of a segment, and nothing that comes after them.

It is cut out of the recipe by naming what does NOT reach the vision tower. So whatever a recipe
comes to hold besides (another way to pick frames, another size of pixels) makes another sight
until somebody says that it does not: too many sights cost time, too few would give wrong adapters.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from storage.identity import canonical_json, sha256_hex
from tasks.models import pixel_spec
from tasks.recipe import Recipe
from video2lora_core.visual_tokens import FORMAT_VERSION

BEYOND_SIGHT: Final = frozenset(
    {
        "format_version",  # of adapters; the tokens' own stands in its place
        "checkpoint_sha256",
        "tokenizer_sha256",
        "processor_sha256",  # prompt layout and pixels in one hash; the pixels are added below
        "internalization_prompt",
        "timestamps",
        "segment_us",  # a segment's span is in its file's name
        "min_tail_us",
        "stored_dtype",
        "perceiver_dtype",
        "top_ranks",
    }
)
"""Fields of a recipe that visual tokens do not depend on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """A sight and its id."""

    sight_id: str
    content: dict[str, Any]
    """What is hashed into the id."""


def make_sight(recipe: Recipe) -> Sight:
    """Return the sight of a recipe."""
    content = {
        **within_sight(recipe.content),
        "pixels": asdict(pixel_spec(recipe.model)),
        "format_version": FORMAT_VERSION,
    }
    return Sight(sight_id=sha256_hex(canonical_json(content).encode()), content=content)


def within_sight(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a recipe's content reaches the vision tower."""
    return {name: value for name, value in content.items() if name not in BEYOND_SIGHT}
