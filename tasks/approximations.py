"""What a run's approximations make of its model and its recipe.

Each option adds a key to the recipe only where it is set: a recipe without any is the one that the
lake has known since before there were approximations. An option that would change nothing is
refused, so that the same adapters never stand under two recipes.
"""

from typing import Any

from configs.approximation_schema import ApproximationConfig
from configs.schema import ModelConfig
from tasks.models import hypernetwork_rank, read_architecture
from video2lora_core.errors import UsageError
from video2lora_core.vision_square import smaller_sides


def approximated(
    model: ModelConfig, config: ApproximationConfig
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the model as adapters are made with it, and what the recipe says about that.

    Raises:
        UsageError: the model cannot be approximated so.
        CheckpointError: the hypernetwork checkpoint is not there.
    """
    keys: dict[str, Any] = {}
    if config.vision_px is not None:
        model = _with_side(model, config.vision_px)
        keys["vision_px"] = config.vision_px
    if config.top_ranks is not None:
        _check_ranks(model, config.top_ranks)
        keys["top_ranks"] = config.top_ranks
    return model, keys


def _with_side(model: ModelConfig, side_px: int) -> ModelConfig:
    """Let frames be made so large; the first of the two resizes stays as it is."""
    own_px = model.pixels.size_px
    sides = [side for side in smaller_sides(read_architecture(model)) if side < own_px]
    if side_px not in sides:
        known = ", ".join(map(str, sides)) or "none"
        raise UsageError(
            f"approximations.vision_px: {side_px} does not fit {model.name} (expected a multiple "
            f"of its patch size x pixel shuffle below its own {own_px}: {known}); give one of "
            "these, or leave it out"
        )
    pixels = model.pixels.model_copy(update={"size_px": side_px})
    return model.model_copy(update={"pixels": pixels})


def _check_ranks(model: ModelConfig, top_ranks: int) -> None:
    rank = hypernetwork_rank(model)
    if top_ranks >= rank:
        raise UsageError(
            f"approximations.top_ranks: {top_ranks} leaves out nothing (expected 1 to {rank - 1}: "
            f"adapters of {model.name} have rank {rank}); give fewer, or leave it out"
        )
