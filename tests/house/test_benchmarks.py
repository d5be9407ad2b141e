"""The benchmarks compare equals: the naive form and ours give the same numbers."""

import ast
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import composition
from benchmarks._naive import NaiveResampler
from benchmarks._pairs import TOLERANCE, measure, table
from benchmarks.cross_attention import EMBEDDED, contests
from video2lora_core.perceiver import Resampler


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def test_the_smallest_size_runs_with_one_pair_and_both_ways_agree() -> None:
    outcomes = [measure(c, num_pairs=1) for c in contests("embedded default", EMBEDDED)]
    assert [outcome.contest.part for outcome in outcomes] == ["encoder blocks", "whole perceiver"]
    for outcome in outcomes:
        assert outcome.deviation <= TOLERANCE
        assert outcome.naive_flops > outcome.ours_flops > 0
        row = json.loads(json.dumps(outcome.row()))
        assert len(row["ratios"]) == 1
        assert row["shape"]["num_tokens"] == EMBEDDED.num_tokens
    console = Console(width=100)
    with console.capture() as captured:
        console.print(table(outcomes))
    assert "whole perceiver" in captured.get()


def test_peft_and_our_svd_agree_before_they_are_timed() -> None:
    contests_, errors = composition.contests("small", composition.SMALL)
    for contest in contests_:
        assert measure(contest, num_pairs=1).deviation <= TOLERANCE
    assert errors["ours"] == pytest.approx(errors["peft"], abs=1e-6)
    assert errors["ours"] > 0.01


def test_nothing_is_timed_when_the_two_ways_differ() -> None:
    contest = contests("embedded default", replace(EMBEDDED, num_rows=1))[0]
    wrong = replace(contest, ours=lambda: contest.ours() * 1.001)
    with pytest.raises(SystemExit, match=r"outputs differ .*nothing was timed"):
        measure(wrong, num_pairs=1)


def test_the_naive_form_knows_masks_and_self_layers() -> None:
    ours = Resampler(
        32, num_latents=3, num_cross_blocks=3, num_self_per_block=1, shared_weights=True
    )
    generator = torch.Generator().manual_seed(0)
    for weight in ours.parameters():
        weight.uniform_(-1.0, 1.0, generator=generator)
    context = torch.randn(2, 7, 32, generator=generator)
    mask = torch.tensor([[True] * 7, [False] * 3 + [True] * 4])
    naive = NaiveResampler(ours.state_dict())
    torch.testing.assert_close(ours(context, mask), naive(context, mask), atol=1e-5, rtol=1e-5)


def test_the_naive_form_shares_no_code_with_ours(sources: list[Any]) -> None:
    (naive,) = [source for source in sources if source.name == "benchmarks/_naive.py"]
    modules = [n.module or "" for n in ast.walk(naive.tree) if isinstance(n, ast.ImportFrom)]
    modules += [a.name for n in ast.walk(naive.tree) if isinstance(n, ast.Import) for a in n.names]
    assert {name.split(".")[0] for name in modules} == {"collections", "math", "torch"}


def test_make_bench_runs_benchmarks_and_not_what_they_share(root: Any) -> None:
    runnable = sorted(path.name for path in (root / "benchmarks").glob("[a-z]*.py"))
    assert "cross_attention.py" in runnable
    for name in runnable:
        assert '__name__ == "__main__"' in (root / "benchmarks" / name).read_text(encoding="utf-8")
