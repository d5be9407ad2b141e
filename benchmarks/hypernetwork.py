"""The hypernetwork at full 500M width: CPU time, error and memory, against the plain form.

    .venv/bin/python -m benchmarks.hypernetwork --pairs 5

One segment of 982 tokens. The plain form (`_naive_path.py`) takes all layers stacked, as the
reference does; ours takes a layer at a time, as it comes out of the encoder. Bars: the perceiver's
blocks at least 3 times as fast, the whole hypernetwork 1.5 times, at most a quarter of the memory,
float32 outputs equal to 1e-5, bfloat16 errors no larger than the plain form's.

Memory is counted (`_memory.py`) over the whole way of one segment through the real shapes, all 32
layers: vision tower, which is the same in both, then decoder and hypernetwork.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks._memory import peak_bytes
from benchmarks._naive import NaiveResampler
from benchmarks._naive_path import NaiveHypernetwork, Pair, decoder_features
from benchmarks._pairs import Contest, Outcome, measure, surroundings, table
from benchmarks._sizes import (
    TOKENS_500M,
    fake_model,
    naive_of,
    random_features,
    random_full_width,
)
from benchmarks._verdict import Verdict, at_least, at_most, finish, make_parser
from video2lora_core.encoder import look, stream_blocks
from video2lora_core.factor_stream import FactorStream
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.vlm import Vlm

MODEL = "smolvlm2-500m"


def flat(factors: Mapping[str, Pair]) -> Tensor:
    """Put all factors into one tensor, to be compared."""
    return torch.cat([part.float().flatten() for pair in factors.values() for part in pair])


def streamed(hypernetwork: Hypernetwork, x_SLTE: Tensor) -> dict[str, Pair]:
    """Make factors layer by layer, as `internalize` does."""
    stream = FactorStream(hypernetwork, mask=None)
    for position, layer in enumerate(hypernetwork.config.layers):
        stream.take(layer, x_SLTE[:, position])
    return {name: (factors.a, factors.b) for name, factors in stream.finish().items()}


def contests(hypernetwork: Hypernetwork, x_SLTE: Tensor) -> list[Contest]:
    """Set up the encoder's blocks alone, and the hypernetwork from features to factors."""
    config = hypernetwork.config
    num_layers, num_tokens = x_SLTE.shape[1:3]
    subject = f"{num_layers} layers, {num_tokens} tokens, width {config.d_model}"
    perceiver = hypernetwork.perceiver
    context_LTD = perceiver.modality_projection(x_SLTE[0])
    naive_encoder = NaiveResampler(perceiver.encoder.state_dict())
    naive = naive_of(hypernetwork)
    shape = {
        "num_layers": num_layers,
        "num_tokens": num_tokens,
        "d_model": config.d_model,
        "d_latent": config.d_latent,
        "num_cross_blocks": config.num_cross_blocks,
        "rank": config.rank,
        "dtype": "float32",
    }
    return [
        Contest(
            subject=subject,
            part="perceiver blocks",
            shape=shape,
            naive=lambda: naive_encoder(context_LTD),
            ours=lambda: perceiver.encoder(context_LTD, None),
            num_calls=1,
        ),
        Contest(
            subject=subject,
            part="whole hypernetwork",
            shape=shape,
            naive=lambda: flat(naive(x_SLTE)),
            ours=lambda: flat(streamed(hypernetwork, x_SLTE)),
            num_calls=1,
        ),
    ]


def bf16_errors(hypernetwork: Hypernetwork, x_SLTE: Tensor) -> dict[str, float]:
    """Return both ways' relative error in bfloat16; leaves the perceiver in bfloat16."""
    exact = flat(naive_of(hypernetwork)(x_SLTE))
    hypernetwork.compute_in(torch.bfloat16)
    x_bf16 = x_SLTE.bfloat16()
    found = {
        "naive": flat(naive_of(hypernetwork)(x_bf16)),
        "ours": flat(streamed(hypernetwork, x_bf16)),
    }
    return {name: float((y - exact).norm() / exact.norm()) for name, y in found.items()}


def decoder_peaks(
    vlm: Vlm, hypernetwork: Hypernetwork, naive: NaiveHypernetwork, embeddings: Tensor
) -> dict[str, int]:
    """Count the bytes from embeddings to one segment's factors, both ways."""
    layers = hypernetwork.config.layers

    def plainly() -> object:
        x_SLTE = decoder_features(vlm.model, embeddings)[:, list(layers)]
        return naive.combined(naive(x_SLTE))

    def ours() -> object:
        stream = FactorStream(hypernetwork, mask=None)
        stream_blocks(vlm, embeddings, layers=layers, consume=stream.take)
        return stream.finish()

    return {"naive": peak_bytes(plainly), "ours": peak_bytes(ours)}


def peaks_of_a_segment(dtype: torch.dtype) -> dict[str, int]:
    """Count one segment's peak at the 500M's shapes, from pixels to factors."""
    with fake_model(MODEL, dtype=dtype) as model, torch.no_grad():
        config = model.vlm.model.config
        pixels = torch.empty(12, 3, *(2 * [config.vision_config.image_size]), dtype=dtype)
        embeddings = torch.empty(1, TOKENS_500M, config.text_config.hidden_size, dtype=dtype)
        tower = peak_bytes(lambda: look(model.vlm, pixels))
        found = decoder_peaks(model.vlm, model.hypernetwork, model.naive(), embeddings)
    return {
        "vision": tower,
        "naive_after_vision": found["naive"],
        "ours_after_vision": found["ours"],
        "naive": max(tower, found["naive"]),
        "ours": max(tower, found["ours"]),
    }


def judge(
    outcomes: Sequence[Outcome], errors: Mapping[str, float], peaks: Mapping[str, int]
) -> list[Verdict]:
    blocks, whole = outcomes
    verdicts = [
        at_least(
            f"{outcome.contest.part}, naive over ours",
            statistics.median(outcome.ratios),
            bar,
            detail=f"{min(outcome.ratios):.2f} - {max(outcome.ratios):.2f}",
        )
        for outcome, bar in ((blocks, 3.0), (whole, 1.5))
    ]
    deviation = max(outcome.deviation for outcome in outcomes)
    verdicts.append(at_most("float32 deviation", deviation, 1e-5))
    ratio = errors["ours"] / errors["naive"]
    shown = f"{errors['ours']:.2e} and {errors['naive']:.2e}"
    verdicts.append(at_most("bfloat16 error, ours over naive", ratio, 1.0, detail=shown))
    if peaks:
        share = peaks["ours"] / peaks["naive"]
        shown = f"{peaks['ours'] / 1e6:.0f} and {peaks['naive'] / 1e6:.0f} MB, of which the tower "
        shown += f"{peaks['vision'] / 1e6:.0f}; after it {peaks['ours_after_vision'] / 1e6:.0f} and"
        shown += f" {peaks['naive_after_vision'] / 1e6:.0f}"
        verdicts.append(at_most("memory of a segment, ours over naive", share, 0.25, detail=shown))
    return verdicts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time the hypernetwork at full 500M width.", num_pairs=5)
    parser.add_argument("--layers", type=int, default=32, help="layers of the 500M, 1-32")
    options = parser.parse_args(arguments)
    if not 1 <= options.layers <= 32:
        parser.error("--layers must be between 1 and 32")
    torch.set_num_threads(1)
    here = surroundings()
    num_layers, num_tokens = (1, 64) if options.quick else (options.layers, TOKENS_500M)
    with torch.no_grad():
        hypernetwork = random_full_width(MODEL, num_layers=num_layers)
        x_SLTE = random_features(hypernetwork.config, num_tokens=num_tokens)
        outcomes = [measure(c, num_pairs=options.pairs) for c in contests(hypernetwork, x_SLTE)]
        errors = bf16_errors(hypernetwork, x_SLTE)

    peaks = {} if options.quick else peaks_of_a_segment(torch.bfloat16)
    Console(width=150).print(table(outcomes))
    measured: dict[str, Any] = here | {
        "outcomes": [outcome.row() for outcome in outcomes],
        "bf16_errors": errors,
        "peak_bytes": peaks,
    }
    verdicts = judge(outcomes, errors, peaks)
    finish(measured, verdicts, out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
