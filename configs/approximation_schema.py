"""What a run may give up for speed or size: each is off by default and part of the recipe.

None of these is exact: the adapters differ from the default's, and so may the answers. What each
did to the embedded default's answers is measured in docs/quality.md.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ApproximationConfig(BaseModel):
    """Approximate ways to make adapters; what is not set is done exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frames: Literal["centres", "keyframes"] = "centres"
    """`keyframes` shows for each instant the video's nearest key frame and decodes no other."""
    vision_px: Annotated[int, Field(gt=0)] | None = None
    """Side of the square that the encoder's vision tower is given, in place of the model config's
    `pixels.size_px`: a smaller multiple of patch size x pixel shuffle (384 for the 500M's 512).
    Adapters only: questions with the frames in context keep the model's own side."""
    top_ranks: Annotated[int, Field(gt=0)] | None = None
    """Rank slices kept of each layer of a segment adapter, those of largest |A_r| |B_r|; the others
    are not stored. Fewer than the checkpoint's rank."""
