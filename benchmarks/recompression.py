"""A sum of many adapters back to a small rank: full SVD of the update, QR, and randomised.

    .venv/bin/python -m benchmarks.recompression --pairs 3

One module of the 500M (2560 to 960), one layer, float32, one thread; 8 or 64 adapters of rank 16
become one of rank 16 or 64. Adapters are random (the worst case: nothing is shared), or correlated:
24 directions that all of them share, and 30% noise. Three ways, each from factors to factors:

    full SVD    form the update B^T A and decompose it: the definition
    QR          orthogonalise both factors, SVD of the small core (exact)
    sketch      a random basis of the update's range, one SVD of what is left (approximate)

`svd` takes QR while the sum's rank is below both widths, here up to 59 adapters, and the sketch
beyond; both are measured on either side of that. Errors are relative, in the Frobenius norm,
against the exact sum. Bars: QR's error is the optimum, the sketch's at most 5% above it.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._pairs import surroundings
from benchmarks._turns import Line, Way, lines, turns_table
from benchmarks._verdict import Verdict, at_most, finish, make_parser
from video2lora_core import reduction
from video2lora_core.adapter import Factors

SEED = 0
NUM_SHARED = 24
NOISE = 0.3
FULL, QR, SKETCH = "full SVD", "QR", "sketch"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is reduced, and to which rank."""

    num_adapters: int
    """Adapters in the sum."""
    kept: int
    """Rank of the result."""
    is_correlated: bool
    """Whether the adapters share directions."""
    rank: int = 16
    """Rank of each adapter."""
    d_in: int = 2560
    """Width of the module's input."""
    d_out: int = 960
    """Width of its output."""

    @property
    def name(self) -> str:
        """Say it in words."""
        kind = "correlated" if self.is_correlated else "random"
        return f"{self.num_adapters} {kind} adapters to rank {self.kept}"


def factors_of(case: Case) -> Factors:
    """Draw the sum's factors [1, rank, width]."""
    generator = torch.Generator().manual_seed(SEED)
    total = case.num_adapters * case.rank

    def side(width: int) -> Tensor:
        rows = torch.randn(total, width, generator=generator)
        if case.is_correlated:
            shared = torch.randn(NUM_SHARED, width, generator=generator)
            mixture = torch.randn(total, NUM_SHARED, generator=generator) / NUM_SHARED**0.5
            rows = mixture @ shared + NOISE * rows
        return rows[None].div(width**0.5)

    return Factors(a=side(case.d_in), b=side(case.d_out))


def full_svd(f: Factors, rank: int) -> Factors:
    """Decompose the update itself."""
    u, s, vh = torch.linalg.svd(f.b.mT @ f.a, full_matrices=False)
    root = s[..., :rank].sqrt()[..., None]
    return Factors(a=root * vh[..., :rank, :], b=root * u[..., :rank].mT)


def ways_of(f: Factors, rank: int) -> dict[str, Callable[[], Factors]]:
    """Return the three ways; ours are the two paths of `reduction.svd`."""

    def sketch() -> Factors:
        generator = torch.Generator().manual_seed(SEED)
        return reduction._svd_by_sketch(f, rank, generator).factors

    return {
        FULL: lambda: full_svd(f, rank),
        QR: lambda: reduction._svd_by_qr(f, rank).factors,
        SKETCH: sketch,
    }


def error_of(f: Factors, kept: Factors) -> float:
    """Return |kept - update| / |update|, from the updates themselves in float64."""
    update = f.b.double().mT @ f.a.double()
    lost = update - kept.b.double().mT @ kept.a.double()
    return float(lost.norm() / update.norm())


def measured_case(case: Case, *, num_pairs: int) -> tuple[list[Line], dict[str, float]]:
    """Time the ways in turns; return the ratios and each way's error."""
    f = factors_of(case)
    ways = ways_of(f, case.kept)
    errors = {name: error_of(f, run()) for name, run in ways.items()}
    timed: dict[str, tuple[Way, int]] = {name: (run, 1) for name, run in ways.items()}
    pairs_of = [(FULL, QR), (FULL, SKETCH)]
    shape = f"rank {case.num_adapters * case.rank}, {case.d_in} x {case.d_out}"
    return lines(shape, case.name, timed, pairs_of, num_pairs=num_pairs), errors


def judge(errors: dict[str, dict[str, float]]) -> list[Verdict]:
    def worst(way: str) -> tuple[float, str]:
        excess = {name: each[way] / each[FULL] - 1 for name, each in errors.items()}
        name = max(excess, key=lambda key: excess[key])
        shown = f"{errors[name][way]:.4f} and {errors[name][FULL]:.4f}, {name}"
        return excess[name], shown

    return [
        at_most(f"{way}'s error beyond the optimum, as a share", found, bar, detail=shown)
        for way, bar in ((QR, 1e-5), (SKETCH, 0.05))
        for found, shown in [worst(way)]
    ]


def error_table(errors: dict[str, dict[str, float]]) -> Table:
    made = Table(title="Relative error of the update")
    made.add_column("what")
    for way in (FULL, QR, SKETCH):
        made.add_column(way, justify="right")
    for name, each in errors.items():
        made.add_row(name, *(f"{each[way]:.6f}" for way in (FULL, QR, SKETCH)))
    return made


def cases(*, is_quick: bool) -> list[Case]:
    if is_quick:
        return [Case(num_adapters=4, kept=8, is_correlated=True, rank=4, d_in=160, d_out=60)]
    return [
        Case(num_adapters=count, kept=kept, is_correlated=is_correlated)
        for count in (8, 64)
        for kept in (16, 64)
        for is_correlated in (True, False)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time three ways to reduce a sum of adapters.", num_pairs=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    made: list[Line] = []
    errors: dict[str, dict[str, float]] = {}
    chosen = cases(is_quick=options.quick)
    with torch.no_grad():
        for case in chosen:
            found, errors[case.name] = measured_case(case, num_pairs=options.pairs)
            made += found
    console = Console(width=150)
    console.print(turns_table(made))
    console.print(error_table(errors))
    measured: dict[str, Any] = here | {
        "shape": [asdict(case) | {"dtype": "float32", "seed": SEED} for case in chosen],
        "lines": [line.row() for line in made],
        "errors": errors,
    }
    finish(measured, judge(errors), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
