"""What a camera, a codec and a resize do to a picture, so that training sees decoded frames."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

NOISE_SIGMA = 0.05 * 255
SHARE_CHROMA, SHARE_BLUR = 0.35, 0.3
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])


def film(
    frames: UInt8[Tensor, "frame channel height width"],
    *,
    frames_per_scene: int,
    generator: torch.Generator,
) -> UInt8[Tensor, "frame channel height width"]:
    """Degrade clean frames scene by scene: chroma subsampling, soft resizing, sensor noise."""
    pixels = frames.unflatten(0, (-1, frames_per_scene)).float()  # [scene, frame, channel, ...]
    num_scenes = len(pixels)
    draws = torch.rand(3, num_scenes, generator=generator)
    subsampled = (draws[0] < SHARE_CHROMA).nonzero()[:, 0]
    pixels[subsampled] = _subsample_chroma(pixels[subsampled].flatten(0, 1)).unflatten(
        0, (-1, frames_per_scene)
    )
    blurred = (draws[1] < SHARE_BLUR).nonzero()[:, 0]
    for scene in torch.chunk(blurred, 3):  # three softnesses per batch are variety enough
        if len(scene):
            height, width = torch.randint(30, 49, (2,), generator=generator).tolist()
            soft = _soften(pixels[scene].flatten(0, 1), height, width)
            pixels[scene] = soft.unflatten(0, (-1, frames_per_scene))
    sigma = draws[2].mul(NOISE_SIGMA)[:, None, None, None, None]
    pixels += sigma * torch.randn(pixels.shape, generator=generator)
    degraded: Tensor = pixels.flatten(0, 1).round_().clamp_(0, 255)
    return degraded.to(torch.uint8)


def _subsample_chroma(pixels: Tensor) -> Tensor:
    """Halve the resolution of the two colour-difference planes, as 4:2:0 video does."""
    if not len(pixels):
        return pixels
    ycc = torch.einsum("kc,nchw->nkhw", _TO_YCC, pixels)
    coarse = F.interpolate(F.avg_pool2d(ycc[:, 1:], 2), scale_factor=2.0)
    ycc = torch.cat((ycc[:, :1], coarse), dim=1)
    rgb: Tensor = torch.einsum("ck,nkhw->nchw", torch.linalg.inv(_TO_YCC), ycc)
    return rgb


def _soften(pixels: Tensor, height: int, width: int) -> Tensor:
    size = pixels.shape[-2:]
    small = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return F.interpolate(small, size, mode="bilinear")
