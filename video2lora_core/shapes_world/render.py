"""Draw shapes-world scenes as pixels, many frames at once.

Every pixel takes the share of it that a shape covers, so an edge is smooth at any resolution and a
frame may be drawn at any moment. Colours are plain sRGB bytes. A training batch and an mp4 file
come from the same `draw`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from video2lora_core.shapes_world.world import (
    BLINKS_PER_SCENE,
    SHAPES,
    WORLD_SIZE,
    Scene,
    Thing,
)

RGB = {
    "red": (225, 45, 45),
    "green": (45, 200, 60),
    "blue": (60, 100, 245),
    "yellow": (240, 220, 50),
    "purple": (190, 70, 215),
    "cyan": (60, 215, 225),
    "black": (12, 12, 12),
    "navy": (12, 18, 80),
    "maroon": (82, 14, 22),
    "olive": (68, 72, 14),
}

# Half widths and heights in world units of the two boxes that make up a shape; a ball has a radius
# instead.
_BALL_RADIUS = 7.5
_NO_BOX = (-1e6, -1e6)
_BOXES = {
    "ball": (_NO_BOX, _NO_BOX),
    "bar": ((11.0, 3.5), _NO_BOX),
    "pole": ((3.5, 11.0), _NO_BOX),
    "cross": ((9.0, 2.5), (2.5, 9.0)),
}
_HALF_SIZES = torch.tensor([_BOXES[name] for name in SHAPES])  # [shape, box, axis]
_MAX_THINGS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sprites:
    """What is drawn in `frame` frames, thing by thing, as tensors [frame] or [frame, channel]."""

    shape: list[Tensor]
    x: list[Tensor]
    y: list[Tensor]
    alpha: list[Tensor]
    rgb: list[Tensor]
    background: Tensor


def frame_fractions(num_frames: int) -> tuple[float, ...]:
    """Return the centres of `num_frames` equal parts of a scene, as fractions of it."""
    return tuple((index + 0.5) / num_frames for index in range(num_frames))


def is_visible(thing: Thing, fraction: float) -> bool:
    """Tell whether a thing is seen at this fraction of its scene."""
    if fraction < thing.appears:
        return False
    return thing.motion != "blinking" or int(fraction * 2 * BLINKS_PER_SCENE) % 2 == 0


def position(thing: Thing, fraction: float) -> tuple[float, float]:
    """Return the centre of a thing at this fraction of its scene, in world units."""
    progress = (fraction - thing.appears) / (1.0 - thing.appears)
    return thing.x + thing.dx * progress, thing.y + thing.dy * progress


def draw(
    scenes: Sequence[Scene], fractions: Sequence[Sequence[float]], *, width_px: int, height_px: int
) -> UInt8[Tensor, "frame channel height width"]:
    """Draw scene `k` at each of `fractions[k]`, all scenes one after the other.

    The square world is stretched to the picture, so that a later squash to a square undoes it.
    """
    moments = [(scene, f) for scene, row in zip(scenes, fractions, strict=True) for f in row]
    sprites = _sprites(moments)
    xs = (torch.arange(width_px) + 0.5) * (WORLD_SIZE / width_px)
    ys = (torch.arange(height_px) + 0.5) * (WORLD_SIZE / height_px)
    pixels_per_unit = (width_px * height_px) ** 0.5 / WORLD_SIZE
    picture = sprites.background[:, :, None, None].expand(-1, -1, height_px, width_px).clone()
    for slot in range(_MAX_THINGS):
        dx = xs - sprites.x[slot][:, None]
        dy = ys - sprites.y[slot][:, None]
        cover = _coverage(sprites.shape[slot], dx, dy, pixels_per_unit)
        cover *= sprites.alpha[slot][:, None, None]
        picture.lerp_(sprites.rgb[slot][:, :, None, None], cover[:, None])
    return picture.round_().clamp_(0, 255).to(torch.uint8)


def _sprites(moments: Sequence[tuple[Scene, float]]) -> _Sprites:
    slots: list[list[tuple[int, float, float, float, tuple[float, ...]]]] = [
        [] for _ in range(_MAX_THINGS)
    ]
    for scene, fraction in moments:
        for slot in range(_MAX_THINGS):
            if slot >= len(scene.things):
                slots[slot].append((0, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0)))
                continue
            thing = scene.things[slot]
            x, y = position(thing, fraction)
            rgb = tuple(scene.brightness * value for value in RGB[thing.colour])
            alpha = float(is_visible(thing, fraction))
            slots[slot].append((SHAPES.index(thing.shape), x, y, alpha, rgb))
    columns = [list(zip(*rows, strict=True)) for rows in slots]
    background = [[scene.brightness * v for v in RGB[scene.background]] for scene, _ in moments]
    return _Sprites(
        shape=[torch.tensor(column[0]) for column in columns],
        x=[torch.tensor(column[1]) for column in columns],
        y=[torch.tensor(column[2]) for column in columns],
        alpha=[torch.tensor(column[3]) for column in columns],
        rgb=[torch.tensor(column[4]) for column in columns],
        background=torch.tensor(background),
    )


def _coverage(
    shape: Tensor,
    dx: Float[Tensor, "frame width"],
    dy: Float[Tensor, "frame height"],
    pixels_per_unit: float,
) -> Float[Tensor, "frame height width"]:
    """Return how much of each pixel the frame's shape covers, in [0, 1].

    A box covers a pixel by the product of its shares in x and in y, which costs a fifth of a
    distance per pixel.
    """
    half = _HALF_SIZES[shape]
    share_x = (0.5 + (half[..., 0, None] - dx.abs()[:, None]) * pixels_per_unit).clamp_(0, 1)
    share_y = (0.5 + (half[..., 1, None] - dy.abs()[:, None]) * pixels_per_unit).clamp_(0, 1)
    cover = share_y[:, 0, :, None] * share_x[:, 0, None, :]
    crosses = (shape == SHAPES.index("cross")).nonzero()[:, 0]
    second = share_y[crosses, 1, :, None] * share_x[crosses, 1, None, :]
    cover[crosses] = torch.maximum(cover[crosses], second)
    balls = (shape == SHAPES.index("ball")).nonzero()[:, 0]
    distance = torch.hypot(dx[balls, None, :], dy[balls, :, None])
    cover[balls] = (0.5 + (_BALL_RADIUS - distance) * pixels_per_unit).clamp_(0, 1)
    return cover
