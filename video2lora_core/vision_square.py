"""The square that a vision tower is given: the model's own side, or a smaller one.

The tower takes any whole number of patches a side: it looks each patch's position up at the patch's
fraction of the frame, so that 24 patches a side take 24 of 32 trained positions, spread over all of
them. The connector folds `scale_factor` x `scale_factor` patches into one visual token. A smaller
side is therefore a multiple of patch size x scale factor, and gives fewer patches and tokens; the
frozen model was trained at its own side only. That one always fits, whether it divides or not: of
384 px at patch 14 the tower's convolution leaves the last 6 out.
"""

from transformers import SmolVLMConfig


def image_tokens(config: SmolVLMConfig, side_px: int) -> int:
    """Count the visual tokens of one frame of `side_px` a side."""
    return int((side_px // config.vision_config.patch_size // config.scale_factor) ** 2)


def smaller_sides(config: SmolVLMConfig) -> list[int]:
    """List the sides below the model's own that its tower and connector take, in pixels."""
    step_px = config.vision_config.patch_size * config.scale_factor
    return list(range(step_px, config.vision_config.image_size, step_px))


def side_fault(config: SmolVLMConfig, side_px: int) -> str | None:
    """Say what is wrong with a side; None where the model can take it."""
    own_px = int(config.vision_config.image_size)
    sides = smaller_sides(config)
    if side_px == own_px or side_px in sides:
        return None
    step = f"patch {config.vision_config.patch_size} x pixel shuffle {config.scale_factor}"
    shown = f", or a smaller multiple of {step}: {_shown(sides)}" if sides else ""
    return f"frames are made {side_px} px (expected {own_px}, the model's own side{shown})"


def _shown(sides: list[int]) -> str:
    return ", ".join(map(str, sides[-4:]))
