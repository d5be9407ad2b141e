"""Workers, recompression and torch.compile: their small shapes run, and figures are judged."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import compiled, recompression, workers
from benchmarks._pairs import surroundings
from benchmarks._verdict import make_parser
from flows.cli_bench import choose
from video2lora_core.reduction import _is_beyond_widths

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def test_all_three_ways_reduce_to_the_same_update() -> None:
    (case,) = recompression.cases(is_quick=True)
    lines, errors = recompression.measured_case(case, num_pairs=1)
    assert [line.fast for line in lines] == [recompression.QR, recompression.SKETCH]
    assert 0.01 < errors[recompression.FULL] < 1
    verdicts = recompression.judge({case.name: errors})
    assert all(verdict.is_met for verdict in verdicts)
    worse = errors | {recompression.SKETCH: 1.2 * errors[recompression.FULL]}
    exact, sketch = recompression.judge({"good": errors, case.name: worse})
    assert exact.is_met
    assert sketch.found == pytest.approx(0.2)


def test_recompression_stands_on_both_sides_of_where_svd_changes_its_path() -> None:
    chosen = recompression.cases(is_quick=False)
    paths = {
        case.num_adapters: _is_beyond_widths(recompression.factors_of(case)) for case in chosen
    }
    assert paths == {8: False, 64: True}
    assert {case.kept for case in chosen} == {16, 64}


def test_correlated_adapters_lose_less_than_random_ones() -> None:
    shape = {"num_adapters": 16, "kept": 24, "rank": 4, "d_in": 160, "d_out": 96}
    errors = {}
    for is_correlated in (True, False):
        case = recompression.Case(is_correlated=is_correlated, **shape)
        f = recompression.factors_of(case)
        errors[is_correlated] = recompression.error_of(f, recompression.full_svd(f, case.kept))
    assert errors[True] < 0.5 * errors[False]


def test_two_workers_are_judged_by_wall_time_beside_the_machines_bound() -> None:
    rounds = {
        "one": [{"wall_s": 10.0}, {"wall_s": 12.0}, {"wall_s": 9.0}],
        "two": [{"wall_s": 5.0}, {"wall_s": 8.0}, {"wall_s": 5.0}],
        "apart": [{"wall_s": 5.0}, {"wall_s": 6.0}, {"wall_s": 5.0}],
    }
    assert workers.gains(rounds, "two") == [2.0, 1.5, 1.8]
    (verdict,) = workers.judge(rounds)
    assert verdict.found == 1.8
    assert verdict.is_met
    assert "two that share no lake reach 2.00 (1.80 - 2.00)" in verdict.detail


@pytest.mark.slow
def test_two_workers_do_a_run_together(tmp_path: Path) -> None:
    corpus = workers.Corpus(tmp_path, num_videos=4)
    measured = workers.rounds(corpus, num_rounds=1)
    assert {len(found) for found in measured.values()} == {1}
    assert all(found[0]["cpu_s"] > 0 for found in measured.values())


@pytest.mark.slow
def test_a_compiled_batch_says_the_same(tmp_path: Path) -> None:
    # In a process of its own: here the checks of shapes stand around every function.
    out = tmp_path / "compiled.json"
    command = [sys.executable, "-m", "benchmarks.compiled", "--quick", "--pairs", "1"]
    subprocess.run([*command, "--out", str(out)], cwd=ROOT, check=True)
    measured = json.loads(out.read_text())
    (told,) = measured["compiled"].values()
    assert told.get("failed") is None
    assert told["deviation"] <= 1e-5
    assert told["compile_cpu_s"] > 0
    assert [line["fast"] for line in measured["lines"]] == ["compiled"]


def test_what_cannot_be_compiled_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        def call(*_: Any) -> Any:
            raise RuntimeError("no compiler\nmore")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    lines, told = compiled.compare(compiled.small_size(num_segments=1), num_pairs=1)
    assert lines == []
    assert told == {"failed": "RuntimeError: no compiler"}


def test_no_pairs_at_all_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser("", num_pairs=5)
    with pytest.raises(SystemExit):
        parser.parse_args(["--pairs", "0"])
    assert "0 (expected at least 1)" in capsys.readouterr().err


def test_surroundings_say_when_where_and_with_what() -> None:
    told = json.loads(json.dumps(surroundings()))
    assert {"measured_at", "torch", "device", "num_cores", "load_average", "cpu"} <= set(told)
    assert {"av", "deltalake", "duckdb", "transformers"} <= set(told["versions"])


@pytest.mark.parametrize("name", choose([], ROOT))
def test_a_benchmark_of_speed_has_small_shapes_and_writes_shapes_and_surroundings(
    name: str,
) -> None:
    text = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    called = {
        node.func.id
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {"make_parser", "surroundings", "finish"} <= called
    assert "options.quick" in text
    assert '"shape"' in text or '"outcomes"' in text
