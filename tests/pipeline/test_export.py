"""Exports are right, are proven right, and every way to be wrong is caught."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.load import load_model_config
from configs.schema import InternalizeConfig
from flows.api import OpenLake, import_peft, open_lake
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from tasks.export_adapters import ExportSettings
from tasks.verify_export import Verified, verify_export
from tests.core.tiny_vlm import write_tiny_vlm
from tests.pipeline.conftest import RANK, write_model
from video2lora_core.errors import AdapterError, ModelMismatchError, UsageError
from video2lora_core.inject import adapted

QUESTION = "How many objects are there?"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory, shelf: Path, model: str) -> OpenLake:
    uri = str(tmp_path_factory.mktemp("exported") / "lake")
    internalize_corpus(InternalizeConfig(corpus=str(shelf), lake=uri, model=model), LocalEngine())
    return open_lake(uri, model=model)


def verified(opened: OpenLake, out: Path) -> list[Verified]:
    return verify_export(out, opened.lake, opened.config)


def only_adapter(out: Path, kind: str = "adapter") -> Path:
    [directory] = (out / "adapters").glob(f"{kind}-*")
    return directory


@pytest.mark.parametrize("bias", ["included", "apart", "merged"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_videos_export_computes_what_the_native_path_does(
    opened: OpenLake, tmp_path: Path, bias: Any, dtype: Any
) -> None:
    settings = ExportSettings(bias=bias, dtype=dtype)
    opened.export(tmp_path / "out", ["long.mp4"], settings=settings)
    [found] = verified(opened, tmp_path / "out")
    assert found.faults == ()
    assert found.num_keys == 6
    assert found.difference <= (1e-4 if dtype == "float32" else 0.1) * found.effect
    assert found.rank == 3 * RANK + (RANK if bias == "included" else 0)


def test_verifying_leaves_the_model_as_it_was(opened: OpenLake, tmp_path: Path) -> None:
    before = opened.ask(QUESTION, video="long.mp4", max_new_tokens=4)
    names = [name for name, _ in opened.model.vlm.model.named_modules()]
    opened.export(tmp_path / "out", ["long.mp4"])
    for _ in range(2):
        assert verified(opened, tmp_path / "out")[0].faults == ()
    assert [name for name, _ in opened.model.vlm.model.named_modules()] == names
    assert opened.ask(QUESTION, video="long.mp4", max_new_tokens=4).text == before.text


def test_each_adapter_of_a_query_is_exported_for_itself(opened: OpenLake, tmp_path: Path) -> None:
    found = opened.export(tmp_path / "out", sql="select adapter_sha256 from adapters_latest")
    assert len(found["adapters"]) == 5
    assert all(not entry.faults for entry in verified(opened, tmp_path / "out"))


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors), path, metadata={"format": "pt"})


def set_config(directory: Path, **changed: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def wrong_prefix(directory: Path) -> None:
    rewrite(
        directory, lambda t: {k.replace("text_model", "language_model"): v for k, v in t.items()}
    )


def missing_layer(directory: Path) -> None:
    rewrite(directory, lambda t: {k: v for k, v in t.items() if "layers.1." not in k})


def wrong_alpha(directory: Path) -> None:
    config = json.loads((directory / "adapter_config.json").read_text())
    set_config(directory, lora_alpha=config["lora_alpha"] / config["r"])


def bias_twice(directory: Path) -> None:
    """The last ranks are the bias's: add them once more, with the alpha that belongs to it."""

    def add(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            key: torch.cat([t, t[-RANK:]])
            if "lora_A" in key
            else torch.cat([t, t[:, -RANK:]], dim=1).contiguous()
            for key, t in tensors.items()
        }

    rewrite(directory, add)
    config = json.loads((directory / "adapter_config.json").read_text())
    rank = config["r"] + RANK
    set_config(directory, r=rank, lora_alpha=config["lora_alpha"] / config["r"] * rank)


def other_layers(directory: Path) -> None:
    config = json.loads((directory / "adapter_config.json").read_text())
    set_config(directory, target_modules=config["target_modules"].replace("(0|1|2)", "(0|1|3)"))


def flipped_bit(directory: Path) -> None:
    path = directory / "adapter_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 64
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_prefix, "keys: 6 missing"),
        (wrong_prefix, "PEFT: 6 missing keys"),
        (wrong_prefix, "logits are the base model's"),
        (missing_layer, "keys: 2 missing"),
        (missing_layer, "PEFT: 2 missing keys"),
        (wrong_alpha, "logits differ from ours"),
        (bias_twice, "logits differ from ours"),
        (other_layers, "missing keys"),
        (flipped_bit, "was altered"),
    ],
)
def test_every_way_to_be_wrong_is_caught_by_what_it_breaks(
    opened: OpenLake, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    opened.export(tmp_path / "out", ["long.mp4"])
    spoil(only_adapter(tmp_path / "out"))
    [found] = verified(opened, tmp_path / "out")
    assert any(said in fault for fault in found.faults), found.faults


def test_a_bias_that_is_left_out_of_its_directory_is_caught(
    opened: OpenLake, tmp_path: Path
) -> None:
    opened.export(tmp_path / "out", ["long.mp4"], settings=ExportSettings(bias="apart"))
    bias = only_adapter(tmp_path / "out", "bias")
    rewrite(bias, lambda t: {key: torch.zeros_like(v) for key, v in t.items()})
    [found] = verified(opened, tmp_path / "out")
    assert any("logits differ" in fault for fault in found.faults)


def test_the_vllm_list_has_slots_names_and_a_shell_line(opened: OpenLake, tmp_path: Path) -> None:
    settings = ExportSettings(purpose="vllm", base_name="team/tiny")
    found = opened.export(tmp_path / "out", ["long.mp4", "short.mp4"], settings=settings)
    plan = json.loads((tmp_path / "out" / "serving.json").read_text())
    assert plan["max_lora_rank"] == 8
    assert plan["lora_target_modules"] == ["down_proj"]
    assert [entry["lora_name"] for entry in plan["adapters"]] == [
        entry["name"] for entry in found["adapters"]
    ]
    for entry in plan["adapters"]:
        config = json.loads(
            (tmp_path / "out" / entry["lora_path"] / "adapter_config.json").read_text()
        )
        assert config["base_model_name_or_path"] == plan["model"] == "team/tiny"
        assert config["r"] == entry["rank"] == 8
        assert 0 < entry["lora_int_id"] < 2**63
    line = (tmp_path / "out" / "serve.sh").read_text()
    assert "vllm serve team/tiny" in line
    assert "--max-lora-rank 8 --max-loras 2 --lora-target-modules down_proj" in line
    assert all(not entry.faults for entry in verified(opened, tmp_path / "out"))


def test_ranks_that_vllm_cannot_serve_are_refused_with_the_way_out(
    opened: OpenLake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("video2lora_core.peft_format.VLLM_RANKS", (1, 4))
    with pytest.raises(AdapterError, match="compose --method svd --rank R --save"):
        opened.export(tmp_path / "out", ["long.mp4"], settings=ExportSettings(purpose="vllm"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="one adapter per prompt"):
        ExportSettings(purpose="vllm", bias="apart")


def test_the_same_export_again_changes_nothing_and_another_is_refused(
    opened: OpenLake, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = opened.export(out, ["long.mp4"])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert opened.export(out, ["long.mp4"]) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    with pytest.raises(UsageError, match="another export"):
        opened.export(out, ["short.mp4"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_names_are_made_of_the_content(opened: OpenLake, tmp_path: Path) -> None:
    names = [
        {entry["name"] for entry in opened.export(tmp_path / str(i), [video])["adapters"]}
        for i, video in enumerate(["long.mp4", "long.mp4", "short.mp4"])
    ]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("place", ["file", "full", "link", "lake"])
def test_a_place_that_is_not_the_exports_own_is_refused(
    opened: OpenLake, tmp_path: Path, place: str
) -> None:
    out = tmp_path / "out"
    if place == "file":
        out.write_text("mine")
    elif place == "full":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    elif place == "link":
        (tmp_path / "real").mkdir()
        out.symlink_to(tmp_path / "real")
    else:
        out = Path(opened.lake.uri) / "adapters" / "out"
    with pytest.raises(UsageError, match="give another --out"):
        opened.export(out, ["long.mp4"])


def test_a_base_that_is_no_directory_cannot_be_copied(opened: OpenLake, tmp_path: Path) -> None:
    vlm = opened.config.vlm.model_copy(update={"path": None, "hub_id": "owner/name"})
    from tasks.export_adapters import _biased_base

    with pytest.raises(UsageError, match="is not a local directory"):
        _biased_base(opened.config.model_copy(update={"vlm": vlm}), tmp_path / "base", None)  # type: ignore[arg-type]


def test_the_merged_base_is_a_copy_and_says_what_rounding_lost(
    opened: OpenLake, tmp_path: Path
) -> None:
    source = Path(str(opened.config.vlm.path))
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    found = opened.export(tmp_path / "out", ["long.mp4"], settings=ExportSettings(bias="merged"))
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    assert 0 <= found["bias_lost_in_rounding"] < 1e-4  # the base is float32
    old = load_file(source / "model.safetensors")
    new = load_file(tmp_path / "out" / "base" / "model.safetensors")
    changed = {key for key in old if not torch.equal(old[key], new[key])}
    assert changed == {f"model.text_model.layers.{i}.mlp.down_proj.weight" for i in (0, 1, 2)}


def test_an_export_of_another_model_is_not_verified_against_this_one(
    opened: OpenLake, tmp_path: Path
) -> None:
    opened.export(tmp_path / "out", ["long.mp4"])
    write_tiny_vlm(tmp_path / "vlm", seed=5)
    other = load_model_config(str(write_model(tmp_path)))
    with pytest.raises(ModelMismatchError, match="give the --model that made it"):
        verify_export(tmp_path / "out", opened.lake, other)


def test_a_directory_without_an_export_is_said(opened: OpenLake, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no export here"):
        verified(opened, tmp_path)


@pytest.mark.parametrize("purpose", ["peft", "vllm"])
def test_an_export_imports_back_and_answers_the_same(
    opened: OpenLake, tmp_path: Path, purpose: Any
) -> None:
    opened.export(tmp_path / "out", ["long.mp4"], settings=ExportSettings(purpose=purpose))
    imported = import_peft(only_adapter(tmp_path / "out"))
    own = opened.adapter("long.mp4")
    ids = torch.tensor([[2, 9, 10, 11]])
    logits = []
    for adapter in (imported, own):
        with torch.no_grad(), adapted(opened.model.vlm.model, adapter):
            logits.append(opened.model.vlm.model(input_ids=ids).logits)
    assert torch.equal(*logits)
    assert opened.ask(QUESTION, adapter=imported, max_new_tokens=4)
    with pytest.raises(AdapterError, match="cannot be read"):
        import_peft(tmp_path)


def test_the_readme_shows_how_to_load_it_and_its_python_is_right(
    opened: OpenLake, tmp_path: Path
) -> None:
    for number, settings in enumerate(
        [ExportSettings(), ExportSettings(bias="apart"), ExportSettings(purpose="vllm")]
    ):
        opened.export(tmp_path / str(number), ["long.mp4"], settings=settings)
        text = (tmp_path / str(number) / "README.md").read_text()
        code = [line[4:] for line in text.splitlines() if line.startswith("    ")]
        compile("\n".join(line for line in code if not line.startswith("video2lora")), "x", "exec")
        assert only_adapter(tmp_path / str(number)).name in text


def test_a_broken_file_is_a_fault_and_not_a_crash(opened: OpenLake, tmp_path: Path) -> None:
    opened.export(tmp_path / "out", ["long.mp4"])
    directory = only_adapter(tmp_path / "out")
    set_config(directory, target_modules="nothing_like_it")
    [found] = verified(opened, tmp_path / "out")
    assert any("PEFT cannot load it" in fault for fault in found.faults)
    shutil.rmtree(directory)
    with pytest.raises(AdapterError, match="export again"):
        verified(opened, tmp_path / "out")
