"""Absorbed against plain cross-attention: the CPU time of ours and of `_naive.py`.

    .venv/bin/python -m benchmarks.cross_attention --pairs 7 --out cross_attention.json

Both run on the same random weights and features, in float32, on one thread of one process. Two
sizes: the 500M's, with some of its 32 layers as the batch, and the embedded default's. Two parts:
the encoder's blocks, where the two ways differ, and the whole perceiver around them, whose
modality projection is the same dense work in both.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch
from rich.console import Console

from benchmarks._naive import NaivePerceiver, NaiveResampler
from benchmarks._pairs import Contest, measure, surroundings, table
from benchmarks._verdict import finish, make_parser
from video2lora_core.perceiver import Perceiver

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The widths of a perceiver, and how much it reads."""

    num_rows: int
    """Rows of the batch: segments x layers."""
    num_tokens: int
    """Tokens of a segment."""
    d_model: int
    """Width of the features."""
    d_latent: int
    """Width of the latents."""
    num_latents: int
    """Latents of the encoder."""
    num_cross_blocks: int
    """Blocks of the encoder."""
    num_outputs: int
    """Latents of the decoder."""


# A unit of the embedded default goes to the hypernetwork layer by layer, 16 segments at a time.
EMBEDDED = Size(
    num_rows=16,
    num_tokens=47,
    d_model=128,
    d_latent=128,
    num_latents=8,
    num_cross_blocks=2,
    num_outputs=8,
)
SMOLVLM2_500M = Size(
    num_rows=2,
    num_tokens=982,
    d_model=960,
    d_latent=512,
    num_latents=8,
    num_cross_blocks=9,
    num_outputs=16,
)


def random_perceiver(size: Size, generator: torch.Generator) -> Perceiver:
    """Build a frozen perceiver; norms lie away from 1, or a forgotten one would not be seen."""
    perceiver = Perceiver(
        d_model=size.d_model,
        d_latent=size.d_latent,
        num_latents=size.num_latents,
        num_outputs=size.num_outputs,
        num_cross_blocks=size.num_cross_blocks,
        num_self_per_block=0,
        shared_weights=False,
    ).requires_grad_(False)
    for name, weight in perceiver.named_parameters():
        if weight.ndim == 1:
            weight.uniform_(0.5, 1.5, generator=generator)
        else:
            spread = 1.0 if name.endswith("latents_q") else weight.shape[-1] ** -0.5
            weight.uniform_(-spread, spread, generator=generator)
    return perceiver


def contests(subject: str, size: Size, *, num_calls: int = 1) -> list[Contest]:
    """Set up the encoder's and the whole perceiver's contest over one set of random weights."""
    generator = torch.Generator().manual_seed(SEED)
    perceiver = random_perceiver(size, generator)
    x = torch.randn(size.num_rows, size.num_tokens, size.d_model, generator=generator)
    context = perceiver.modality_projection(x)
    naive_encoder = NaiveResampler(perceiver.encoder.state_dict())
    naive_perceiver = NaivePerceiver(perceiver.state_dict())
    shape = asdict(size) | {"dtype": "float32", "seed": SEED}
    return [
        Contest(
            subject=subject,
            part="encoder blocks",
            shape=shape,
            naive=lambda: naive_encoder(context),
            ours=lambda: perceiver.encoder(context, None),
            num_calls=num_calls,
        ),
        Contest(
            subject=subject,
            part="whole perceiver",
            shape=shape,
            naive=lambda: naive_perceiver(x),
            ours=lambda: perceiver(x, None),
            num_calls=num_calls,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time absorbed against plain cross-attention.", num_pairs=5)
    parser.add_argument("--layers", type=int, default=2, help="layers of the 500M as batch (1-32)")
    options = parser.parse_args(arguments)
    if not 1 <= options.layers <= 32:
        parser.error("--layers must be between 1 and 32")
    torch.set_num_threads(1)
    here = surroundings()
    full = replace(SMOLVLM2_500M, num_rows=options.layers)
    with torch.no_grad():
        made = contests("embedded default, 16 segments, 47 tokens", EMBEDDED, num_calls=20)
        if not options.quick:
            made += contests(f"500M, {options.layers} of 32 layers, 982 tokens", full)
        outcomes = [measure(contest, num_pairs=options.pairs) for contest in made]
    Console(width=150).print(table(outcomes))
    measured = here | {"outcomes": [outcome.row() for outcome in outcomes]}
    finish(measured, [], out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
