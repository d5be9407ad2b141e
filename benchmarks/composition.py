"""Composition: our `svd` against PEFT's `add_weighted_adapter(combination_type="svd")`.

    .venv/bin/python -m benchmarks.composition --pairs 5 --out composition.json

Eight adapters of rank 16 become one of rank 64, at the 500M's module size (2560 -> 960), one layer,
float32, one thread. Both start from factors in memory and end with factors; PEFT is timed with its
default full SVD and, to be fair, with the reduced one that it offers. What is compared first are
the singular values kept and both errors against the exact sum.
"""

import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from torch import Tensor, nn

from benchmarks._pairs import Contest, Outcome, measure, surroundings, table
from benchmarks._verdict import Verdict, at_least, at_most, finish, make_parser
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.compose import concat
from video2lora_core.reduction import relative_error, svd

SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The module, and what is composed."""

    d_in: int
    """Width of the module's input."""
    d_out: int
    """Width of its output."""
    num_adapters: int
    """Adapters composed."""
    rank: int
    """Rank of each."""
    kept: int
    """Rank of the result."""


SMOLVLM2_500M = Size(d_in=2560, d_out=960, num_adapters=8, rank=16, kept=64)
SMALL = Size(d_in=160, d_out=60, num_adapters=4, rank=4, kept=8)


def random_adapters(size: Size) -> list[Adapter]:
    """Draw adapters whose rank slices lose weight step by step, as real ones do."""
    generator = torch.Generator().manual_seed(SEED)
    fade = 0.8 ** torch.arange(size.rank)[:, None]
    made = []
    for _ in range(size.num_adapters):
        a = torch.randn(1, size.rank, size.d_in, generator=generator) * fade
        b = torch.randn(1, size.rank, size.d_out, generator=generator) * fade
        made.append(
            Adapter(
                factors={"down_proj": Factors(a=a, b=b)},
                layers=(0,),
                scaling=1.0,
                checkpoint_sha256="benchmark",
            )
        )
    return made


class PeftComposer:
    """The same adapters in a PEFT model of one linear layer."""

    def __init__(self, size: Size, adapters: Sequence[Adapter]) -> None:
        base = nn.Sequential(nn.Linear(size.d_in, size.d_out, bias=False))
        config = LoraConfig(r=size.rank, lora_alpha=size.rank, target_modules=["0"])
        self._names = [f"adapter{i}" for i in range(size.num_adapters)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the base is no transformers model
            self._model: Any = get_peft_model(base, config, adapter_name=self._names[0])
            for name in self._names[1:]:
                self._model.add_adapter(name, config)
        assert isinstance(self._model, PeftModel)
        self._layer: Any = self._model.base_model.model[0]
        for name, adapter in zip(self._names, adapters, strict=True):
            factors = adapter.factors["down_proj"]
            self._layer.lora_A[name].weight.data = factors.a[0].clone()
            self._layer.lora_B[name].weight.data = factors.b[0].mT.clone()

    def compose(self, rank: int, *, is_full: bool) -> Factors:
        """Let PEFT compose, and take the result out of the model again."""
        self._model.base_model.add_weighted_adapter(
            self._names,
            [1.0] * len(self._names),
            "all",
            combination_type="svd",
            svd_rank=rank,
            svd_full_matrices=is_full,
        )
        made = Factors(
            a=self._layer.lora_A["all"].weight.data[None],
            b=self._layer.lora_B["all"].weight.data.mT[None],
        )
        self._model.delete_adapter("all")
        return made


def slice_sizes(factors: Factors) -> Tensor:
    """|A_r| |B_r|, largest first: of an SVD these are its singular values, whoever made it."""
    sizes = factors.a.norm(dim=-1) * factors.b.norm(dim=-1)
    ordered: Tensor = sizes.sort(dim=-1, descending=True).values
    return ordered


def contests(subject: str, size: Size) -> tuple[list[Contest], dict[str, float]]:
    """Set up both contests over the same adapters; return them with both relative errors."""
    adapters = random_adapters(size)
    composer = PeftComposer(size, adapters)

    def ours() -> Factors:
        return svd(concat(adapters), rank=size.kept)[0].factors["down_proj"]

    def theirs(*, is_full: bool) -> Callable[[], Tensor]:
        return lambda: slice_sizes(composer.compose(size.kept, is_full=is_full))

    exact = concat(adapters)
    errors = {
        name: relative_error(exact, _adapter(exact, factors))
        for name, factors in (("ours", ours()), ("peft", composer.compose(size.kept, is_full=True)))
    }
    made = [
        Contest(
            subject=subject,
            part=part,
            shape=asdict(size) | {"dtype": "float32", "seed": SEED},
            naive=theirs(is_full=is_full),
            ours=lambda: slice_sizes(ours()),
            num_calls=1,
        )
        for part, is_full in (("PEFT's default", True), ("PEFT, reduced SVD", False))
    ]
    return made, errors


def _adapter(like: Adapter, factors: Factors) -> Adapter:
    return Adapter(
        factors={"down_proj": factors},
        layers=like.layers,
        scaling=like.scaling,
        checkpoint_sha256=like.checkpoint_sha256,
    )


def judge(outcomes: Sequence[Outcome], errors: Mapping[str, float]) -> list[Verdict]:
    worst = min(outcomes, key=lambda outcome: statistics.median(outcome.ratios))
    shown = f"{min(worst.ratios):.0f} - {max(worst.ratios):.0f}"
    what = f"{worst.contest.part} over our svd"
    excess = errors["ours"] / errors["peft"] - 1
    both = f"{errors['ours']:.7f} and {errors['peft']:.7f}"
    return [
        at_least(what, statistics.median(worst.ratios), 1.0, detail=shown),
        at_most("our error of the update beyond PEFT's, as a share", excess, 1e-5, detail=both),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time our svd composition against PEFT's.", num_pairs=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    size = SMALL if options.quick else SMOLVLM2_500M
    subject = f"{size.num_adapters} adapters, rank {size.rank} -> {size.kept}"
    with torch.no_grad():
        made, errors = contests(f"{subject}, {size.d_in} x {size.d_out}", size)
        outcomes = [measure(contest, num_pairs=options.pairs) for contest in made]
    Console(width=150).print(table(outcomes))
    measured = here | {"errors": errors, "outcomes": [outcome.row() for outcome in outcomes]}
    finish(measured, judge(outcomes, errors), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
