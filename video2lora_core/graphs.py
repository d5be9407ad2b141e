"""A batch of one shape as a CUDA graph: recorded once, then replayed with a single launch.

In eager mode one forward at the 500M launches some 2,300 kernels, and one segment at a time the
host cannot launch them as fast as an H100 or H200 computes them. The way from pixels to factors
asks the device nothing (fixed_shape.py), so it can be recorded. A graph belongs to one shape:
number of segments, frames and tokens. What differs (a video's last, smaller batch) runs without.

No GPU has run this: see docs/unverified.md.
"""

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from video2lora_core.adapter import Factors
from video2lora_core.encoder import check_frames, look, place, refuse_adapted
from video2lora_core.errors import UsageError
from video2lora_core.factor_stream import FactorStream
from video2lora_core.fixed_shape import is_fixed_shape, run_blocks
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.pixels import normalise
from video2lora_core.vlm import Vlm

NUM_WARM_UPS = 3  # kernels are chosen and workspaces made before anything is recorded

BatchFactors = dict[str, Factors]


def batch_factors(
    vlm: Vlm,
    hypernetwork: Hypernetwork,
    pixels: UInt8[Tensor, "segment frame channel height width"],
    input_ids: Int[Tensor, "segment token"],
) -> BatchFactors:
    """Make A and B [segment, layer, rank, d] of an unpadded batch that is on the device.

    Nothing here looks at a value, so it can be recorded.
    """
    stream = FactorStream(hypernetwork, mask=None)
    visual_tokens = look(vlm, normalise(pixels.flatten(0, 1), dtype=vlm.dtype))
    embeddings = place(vlm, input_ids, visual_tokens)
    run_blocks(vlm, embeddings, layers=hypernetwork.config.layers, consume=stream.take)
    return stream.finish()


class RecordedBatch:
    """The recorded forward of one shape, with its own input and output tensors."""

    def __init__(
        self,
        vlm: Vlm,
        hypernetwork: Hypernetwork,
        pixels: UInt8[Tensor, "segment frame channel height width"],
        input_ids: Int[Tensor, "segment token"],
    ) -> None:
        """Record with these inputs, which also give the shape.

        Raises:
            UsageError: the model is not on a CUDA device, or its attention is not "sdpa".
        """
        if vlm.device.type != "cuda" or not is_fixed_shape(vlm):
            raise UsageError(
                f"graphs: the model is on {vlm.device} (expected a CUDA device, and attention "
                "'sdpa'); run batches without a graph there"
            )
        refuse_adapted(vlm)
        check_frames(vlm, pixels, input_ids)
        self._pixels = pixels.to(vlm.device).clone()
        self._input_ids = input_ids.to(vlm.device).clone()
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad():
            self._warm_up(vlm, hypernetwork)
            with torch.cuda.graph(self._graph):
                self._factors = batch_factors(vlm, hypernetwork, self._pixels, self._input_ids)

    def _warm_up(self, vlm: Vlm, hypernetwork: Hypernetwork) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UPS):
                batch_factors(vlm, hypernetwork, self._pixels, self._input_ids)
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(
        self,
        pixels: UInt8[Tensor, "segment frame channel height width"],
        input_ids: Int[Tensor, "segment token"],
    ) -> BatchFactors:
        """Compute another batch of this shape; the result is overwritten by the next call."""
        self._pixels.copy_(pixels, non_blocking=True)
        self._input_ids.copy_(input_ids, non_blocking=True)
        self._graph.replay()
        return self._factors
