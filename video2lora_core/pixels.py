"""Frames to pixels: what the encoder's vision tower is given for one decoded frame.

Two Lanczos passes on uint8: the longest edge to `longest_edge_px` with the aspect kept, then
squashed to a square. The square is all that the model sees, so nothing is padded or cropped, and
pixels count as they are stored: a sample aspect ratio would change only the first pass, and the
reference ignores it too.

Always uint8: Lanczos in float32 overshoots where uint8 clips, and differs by up to 33 levels.
`torch` and `pil` are the two paths of the public processors, equal to them value for value. They
are not equal to each other (mostly one level; up to 23 where a tall frame is enlarged first), so
the path is part of an adapter's recipe.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from video2lora_core.errors import UsageError

Resize = Literal["torch", "pil"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelSpec:
    """How a frame of any size becomes the encoder's square.

    Attributes:
        longest_edge_px: the longer side after the first pass (384 for SmolVLM2).
        size_px: the square's side after the second pass (512 for SmolVLM2-500M, 384 for 2.2B).
        resize: the path; `torch` is 4-5 times faster, `pil` is what released models trained with.
    """

    longest_edge_px: int
    size_px: int
    resize: Resize = "torch"

    def __post_init__(self) -> None:
        if self.longest_edge_px < 1 or self.size_px < 1:
            raise UsageError(
                f"pixel spec: longest_edge_px={self.longest_edge_px}, size_px={self.size_px} "
                "(expected both at least 1)"
            )
        if self.resize not in get_args(Resize):
            raise UsageError(
                f"pixel spec: resize={self.resize!r} is unknown "
                f"(expected one of {get_args(Resize)})"
            )


def prepare(
    frame: UInt8[np.ndarray, "height width channel"], spec: PixelSpec
) -> UInt8[np.ndarray, "channel {spec.size_px} {spec.size_px}"]:
    """Resize one RGB frame to the encoder's square."""
    height_px, width_px, _ = frame.shape
    fitted = fitted_size(width_px=width_px, height_px=height_px, edge_px=spec.longest_edge_px)
    square = (spec.size_px, spec.size_px)
    if spec.resize == "torch":
        return _resize_torch(frame, sizes=(fitted, square))
    return _resize_pil(frame, sizes=(fitted, square))


def normalise(
    pixels: UInt8[Tensor, "*batch channel height width"], *, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*batch channel height width"]:
    """Map levels 0..255 to -1..1; the arithmetic is float32 whatever `dtype` is returned."""
    # One buffer in place of four: the same bits, and on a CPU an eighth of the time.
    return pixels.to(torch.float32).div_(255).sub_(0.5).div_(0.5).to(dtype)


def fitted_size(*, width_px: int, height_px: int, edge_px: int) -> tuple[int, int]:
    """Return (width, height): longer side `edge_px`, aspect kept, an odd short side one more.

    The division is in floating point as in the public processors: integers differ by a row.
    """
    aspect = width_px / height_px
    if width_px >= height_px:
        return edge_px, _even(int(edge_px / aspect))
    return _even(int(edge_px * aspect)), edge_px


def _even(length_px: int) -> int:
    return max(1, length_px + length_px % 2)


def _resize_torch(
    frame: UInt8[np.ndarray, "height width channel"], *, sizes: tuple[tuple[int, int], ...]
) -> UInt8[np.ndarray, "channel _ _"]:
    image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    for width_px, height_px in sizes:
        try:
            image = functional.interpolate(
                image, size=(height_px, width_px), mode="lanczos", antialias=True
            )
        except NotImplementedError as error:
            raise UsageError(
                f"pixels: torch {torch.__version__} has no Lanczos (2.13 or later has); "
                "install a newer torch or set resize: pil"
            ) from error
    return image[0].contiguous().numpy()


def _resize_pil(
    frame: UInt8[np.ndarray, "height width channel"], *, sizes: tuple[tuple[int, int], ...]
) -> UInt8[np.ndarray, "channel _ _"]:
    image = Image.fromarray(frame)
    for size in sizes:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
