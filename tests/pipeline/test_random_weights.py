"""Random weights: the whole pipeline without a weight file, and nobody mistakes what comes out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from configs.load import load_internalize_config, load_model_config
from configs.schema import InternalizeConfig
from flows.api import open_lake
from flows.cli import app
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from tasks.models import load_model, random_model
from tasks.recipe import identify_model, make_recipe
from tests.pipeline.conftest import PROMPT
from video2lora_core.errors import CheckpointError, ModelMismatchError, UsageError

TINY: dict[str, Any] = {
    "name": "untrained",
    "pixels": {"longest_edge_px": 32, "size_px": 32},
    "prompt": PROMPT,
    "segments": {"segment_s": 4.0, "min_tail_s": 2.0, "num_frames": 4},
    "checkpoint": "nowhere",
}


@pytest.fixture(scope="module")
def config_path(model_dir: Path) -> str:
    """A model config with an architecture and a tokenizer, and no weights at all."""
    bare = model_dir / "bare"
    bare.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json"):
        (bare / name).write_bytes((model_dir / "vlm" / name).read_bytes())
    path = model_dir / "untrained.yaml"
    path.write_text(yaml.safe_dump({**TINY, "vlm": {"path": "bare", "device": "cpu"}}))
    return str(path)


@pytest.fixture(scope="module")
def lake(shelf: Path, config_path: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("random") / "lake")
    config = InternalizeConfig(corpus=str(shelf), lake=uri, model=config_path, random_weights=True)
    summary = internalize_corpus(config, LocalEngine())
    assert summary.shards.num_segments > 0
    return uri


def test_adapters_of_random_weights_say_so_in_the_catalog(lake: str) -> None:
    rows = open_lake(lake).sql("select distinct is_random from adapters").to_pylist()
    assert rows == [{"is_random": True}]


def test_they_are_not_no_ops(lake: str) -> None:
    rows = open_lake(lake).sql("select min(norm_update) as least from adapters").to_pylist()
    assert rows[0]["least"] > 0


def test_they_are_refused_unless_allowed(lake: str, config_path: str) -> None:
    opened = open_lake(lake, model=config_path)
    opened.config = opened.config.model_copy(update={"random_seed": 0})
    with pytest.raises(ModelMismatchError, match=r"random weights, .* give --allow-random"):
        opened.pick("long.mp4")


def test_where_allowed_they_answer_with_zero_visual_tokens(lake: str, config_path: str) -> None:
    opened = open_lake(lake, model=config_path, allow_random=True)
    answer = opened.ask("How many objects are there?", video="long.mp4", max_new_tokens=2)
    assert answer.num_visual_tokens == 0


def test_the_checkpoint_in_the_lake_is_the_one_the_adapters_name(
    lake: str, config_path: str
) -> None:
    opened = open_lake(lake, model=config_path, allow_random=True)
    sha256 = identify_model(opened.config).checkpoint_sha256
    assert opened.model.checkpoint.sha256 == sha256
    files = opened.lake.get_checkpoint(sha256)
    assert json.loads(files["hypernetwork.json"])["info"]["is_random"] is True


def test_the_recipe_differs_by_seed_and_from_real_weights(config_path: str, tmp_path: Path) -> None:
    given = {"corpus": str(tmp_path), "lake": str(tmp_path), "model": config_path}
    recipes = {make_recipe(InternalizeConfig(**given, random_weights=True)).recipe_id}
    content = yaml.safe_load(Path(config_path).read_text())
    seeded = Path(config_path).with_name("seeded.yaml")
    seeded.write_text(yaml.safe_dump({**content, "random_seed": 7}))
    recipes.add(make_recipe(InternalizeConfig(**{**given, "model": str(seeded)})).recipe_id)
    assert len(recipes) == 2
    with pytest.raises(UsageError, match=r"no model\*.safetensors"):
        make_recipe(InternalizeConfig(**given))


def test_the_same_seed_draws_the_same_weights(config_path: str) -> None:
    config = load_model_config(config_path, random_weights=True)
    one, two = (load_model(config.model_copy(update={"name": name})) for name in ("a", "b"))
    states = [loaded.vlm.model.state_dict() for loaded in (one, two)]
    assert all(states[0][name].equal(tensor) for name, tensor in states[1].items())
    assert one.is_random


def test_a_model_in_bfloat16_has_its_perceiver_in_bfloat16_and_a_recipe_that_says_so(
    config_path: str, tmp_path: Path
) -> None:
    content = yaml.safe_load(Path(config_path).read_text())
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        path = Path(config_path).with_name(f"{dtype}.yaml")
        vlm = {**content["vlm"], "dtype": dtype}
        path.write_text(yaml.safe_dump({**content, "vlm": vlm, "random_seed": 0}))
        run = InternalizeConfig(corpus=str(tmp_path), lake=str(tmp_path), model=str(path))
        hypernetwork = load_model(load_model_config(str(path))).hypernetwork
        perceiver = {str(t.dtype) for t in hypernetwork.perceiver.parameters()}
        rest = {
            str(t.dtype) for n, t in hypernetwork.named_parameters() if not n.startswith("aggreg")
        }
        assert (perceiver, rest) == ({f"torch.{dtype}"}, {"torch.float32"})
        found[dtype] = make_recipe(run).content
    assert "perceiver_dtype" not in found["float32"]
    assert found["bfloat16"]["perceiver_dtype"] == "bfloat16"


@pytest.mark.parametrize("name", ["smolvlm2-500m", "smolvlm2-2.2b"])
def test_a_real_model_without_its_files_names_the_commands_for_both(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = load_model_config(name)
    with pytest.raises(UsageError) as caught:
        identify_model(config)
    message = str(caught.value)
    assert f"hf download {config.vlm.hub_id} --revision {config.vlm.revision}" in message
    place = tmp_path / ".local/share/video2lora"
    file = f"frames2lora-{name}-best-ce.pt"
    get = f"hf download MananSuri27/Frames2LoRA-SmolVLM-ckpts {file} --local-dir {place}"
    assert get in message
    assert f"import-checkpoint {place}/{file} --to {place}/frames2lora-{name}" in message
    assert "--random-weights" in message


def test_a_checkpoint_that_is_missing_alone_is_one_message_too(
    config_path: str, model_dir: Path
) -> None:
    path = model_dir / "unhelped.yaml"
    path.write_text(yaml.safe_dump({**TINY, "vlm": {"path": "vlm", "device": "cpu"}}))
    with pytest.raises(CheckpointError, match=r"nowhere/hypernetwork.json: cannot be read"):
        identify_model(load_model_config(str(path)))


def test_random_weights_need_an_architecture(tmp_path: Path) -> None:
    path = tmp_path / "hub.yaml"
    hub = {"hub_id": "someone/model", "revision": "abc"}
    path.write_text(yaml.safe_dump({**TINY, "vlm": hub}))
    with pytest.raises(UsageError, match=r"random weights need the architecture"):
        random_model(load_model_config(str(path), random_weights=True))


def test_the_released_models_are_configured_as_the_method_says() -> None:
    for name, size_px, batch in (("smolvlm2-500m", 512, 16), ("smolvlm2-2.2b", 384, 8)):
        config = load_model_config(name)
        assert len(config.vlm.revision or "") == 40
        assert (config.pixels.longest_edge_px, config.pixels.size_px) == (384, size_px)
        segments = config.segments
        assert (segments.segment_s, segments.min_tail_s, segments.num_frames) == (30.0, 10.0, 12)
        assert (config.batch_segments, config.vlm.dtype) == (batch, "bfloat16")


def test_the_flag_of_the_command_line_reaches_the_run_config() -> None:
    given = {"corpus": "a", "lake": "b", "random_weights": True}
    assert load_internalize_config(None, given).random_weights
    shown = CliRunner().invoke(app, ["internalize", "--help"], env={"COLUMNS": "200"}).output
    assert "--random-weights" in shown
