"""`video2lora bench` finds the benchmarks of a checkout and gives each the options it has."""

from pathlib import Path
from typing import Any

import pytest

from flows.cli_bench import choose, command_of
from video2lora_core.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def test_all_benchmarks_are_found_and_what_they_share_is_not() -> None:
    found = choose([], ROOT)
    assert {"catalog", "compiled", "hypernetwork", "pipeline", "workers"} <= set(found)
    assert not any(name.startswith("_") or name == "page" for name in found)


def test_what_is_not_about_speed_runs_when_it_is_named() -> None:
    quality = ["answer_agreement", "approximations", "peft_parity", "quality_gate", "stored_dtype"]
    assert choose(quality, ROOT) == quality
    assert not set(quality) & set(choose([], ROOT))


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"speed is unknown \(expected some of .*hypernetwork"):
        choose(["speed"], ROOT)


def test_an_installed_package_without_benchmarks_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the installed package has no benchmarks"):
        choose([], tmp_path)


def test_a_benchmark_is_given_only_options_that_it_has() -> None:
    every: dict[str, Any] = {"pairs": 3, "out": Path("measured"), "is_quick": True}
    assert command_of("hypernetwork", ROOT, **every)[2:] == [
        "benchmarks.hypernetwork",
        *("--pairs", "3", "--quick", "--out", "measured/hypernetwork.json"),
    ]
    assert "--quick" not in command_of("stored_dtype", ROOT, **every)
    assert "--pairs" not in command_of("stored_dtype", ROOT, **every)
