"""A read-out of the hypernetwork's embeddings, in training only: what does the segment show?

Linear probes on the embeddings behind the residual MLP say which colour each shape has, how it
moves, which of two things came first, and what the background is. Answers alone teach motion late,
because they carry it through the frozen VLM; the probes ask for it directly and are thrown away.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.shapes_world.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene

_ABSENT = 0
_ORDERS = 3  # absent, first, second


class SegmentReadout(nn.Module):
    """Linear probes over all layers' and ranks' embeddings of a segment."""

    def __init__(self, *, num_layers: int, rank: int, d_latent: int) -> None:
        super().__init__()
        self.sizes = {
            "colour": len(COLOURS) + 1,
            "motion": len(MOTIONS) + 1,
            "order": _ORDERS,
        }
        width = num_layers * rank * d_latent
        outputs = len(SHAPES) * sum(self.sizes.values()) + len(BACKGROUNDS)
        self.probe = nn.Linear(width, outputs)

    def forward(
        self,
        e: Float[Tensor, "segment layer module rank d_latent"],
        targets: Int[Tensor, "segment target"],
    ) -> Float[Tensor, ""]:
        """Return the mean cross-entropy of the probes."""
        unit = F.normalize(e, dim=-1) * e.shape[-1] ** 0.5
        logits = self.probe(unit.flatten(1))
        widths = [size for size in self.sizes.values() for _ in SHAPES] + [len(BACKGROUNDS)]
        losses = [
            F.cross_entropy(part, targets[:, column])
            for column, part in enumerate(logits.split(widths, dim=1))
        ]
        return torch.stack(losses).mean()


def segment_targets(scenes: Sequence[Scene]) -> Int[Tensor, "segment target"]:
    """Describe scenes for the probes: colour, motion and order by shape, then the background."""
    rows = []
    for scene in scenes:
        by_shape = {thing.shape: (index, thing) for index, thing in enumerate(scene.things)}
        found = [by_shape.get(shape) for shape in SHAPES]
        row = [_ABSENT if f is None else COLOURS.index(f[1].colour) + 1 for f in found]
        row += [_ABSENT if f is None else MOTIONS.index(f[1].motion) + 1 for f in found]
        row += [_ABSENT if f is None else f[0] + 1 for f in found]
        rows.append([*row, BACKGROUNDS.index(scene.background)])
    return torch.tensor(rows)


@contextmanager
def read_embeddings(hypernetwork: Hypernetwork) -> Iterator[list[Tensor]]:
    """Collect the embeddings that go into the head during a forward pass."""
    seen: list[Tensor] = []
    handle = hypernetwork.layers.register_forward_hook(
        lambda _module, _args, output: seen.append(output)
    )
    try:
        yield seen
    finally:
        handle.remove()
