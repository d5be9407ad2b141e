"""compose, export and verify-export on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, shelf: Path, model: str) -> Path:
    path = tmp_path_factory.mktemp("cli-adapters") / "lake"
    config = InternalizeConfig(corpus=str(shelf), lake=str(path), model=model)
    internalize_corpus(config, LocalEngine())
    return path


def test_a_span_is_composed_stored_and_asked(call: Call, lake: Path, model: str) -> None:
    shared = ("--lake", lake, "--model", model)
    reduced = ("--method", "svd", "--rank", 3, "--coefficients", "1,0.5", "--save", "--json")
    code, out, _ = call("compose", "long.mp4", "--from", 4, "--to", 10, *reduced, *shared)
    row: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (row["num_segments"], row["rank"], row["is_saved"]) == (2, 3, True)
    assert row["coefficients"] == [1.0, 0.5]
    name = f"composition:{row['composition_id'][:12]}"
    code, out, _ = call("ask", name, "How many objects?", *shared, "--verbose")
    assert code == 0
    assert "00:04.0-00:08.0, 00:08.0-00:10.0" in out


def test_ids_and_queries_are_composed_and_shown(call: Call, lake: Path) -> None:
    sql = "select adapter_sha256 from adapters_latest order by start_us"
    code, out, _ = call("compose", "--sql", sql, "--lake", lake)
    assert code == 0
    assert "5, 16 s" in out
    assert "not stored" in out
    _, listed, _ = call("sql", sql, "--lake", lake, "--json")
    ids = [row["adapter_sha256"] for row in json.loads(listed)]
    code, out, _ = call("compose", "--ids", ",".join(ids[:2]), "--ids", ids[2], "--lake", lake)
    assert code == 0
    assert "segments        3" in out


def test_an_export_is_verified_and_a_spoilt_one_ends_with_1(
    call: Call, lake: Path, model: str, tmp_path: Path
) -> None:
    out_dir = tmp_path / "out"
    shared = ("--lake", lake, "--model", model)
    code, out, _ = call("export", "long.mp4", "--for", "vllm", "--out", out_dir, *shared)
    assert code == 0
    assert "verify-export" in out
    code, out, _ = call("verify-export", out_dir, "--model", model)
    assert (code, "yes" in out) == (0, True)
    [config] = (out_dir / "adapters").glob("*/adapter_config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 1}))
    code, out, _ = call("verify-export", out_dir, "--model", model)
    assert code == 1
    assert "logits differ from ours" in out
    code, out, _ = call("verify-export", out_dir, "--model", model, "--json")
    assert code == 1
    assert json.loads(out)[0]["faults"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compose"], "nothing was given"),
        (["compose", "long.mp4", "--ids", "abc"], "video, ids was given"),
        (["compose", "long.mp4", "--method", "mean"], "method 'mean' is unknown"),
        (["compose", "long.mp4", "--method", "svd"], "give --rank or --bytes"),
        (["compose", "long.mp4", "--coefficients", "1,x"], "coefficients: '1,x'"),
        (["compose", "--sql", "select 1 as x"], "no column adapter_sha256"),
        (["export", "long.mp4", "--for", "onnx", "--out", "new"], "--for 'onnx' is unknown"),
        (["export", "--for", "peft", "--out", "new"], "nothing was given"),
        (["export", "long.mp4", "--for", "vllm", "--bias", "apart", "--out", "new"], "one adapter"),
        (["export", "long.mp4", "--for", "peft", "--out", "lake/x"], "lies in the lake"),
        (["verify-export", "nowhere"], "no export here"),
    ],
)
def test_every_fault_is_one_line(
    call: Call,
    lake: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(lake.parent)
    code, out, err = call(*arguments, "--lake", "lake", "--model", model)
    assert code == 1
    assert err.startswith("Error: ")
    assert said in err
    assert err.count("\n") == 1
    assert out == ""
