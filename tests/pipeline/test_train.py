"""Training from a config: what it leaves behind works, and a killed run ends as an unbroken one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from configs.load import load_config, load_model_config
from configs.schema import ModelConfig
from configs.train_schema import TrainConfig
from tasks.exam import COMPOSED_MODES, Paper, sit
from tasks.models import load_model
from tasks.train import run
from video2lora_core.errors import UsageError

ROOT = Path(__file__).parents[2]
SCHEDULE = {"steps": 2, "learning_rate": 0.001, "warmup_steps": 1, "save_every": 1, "log_every": 1}
CONTENT = {
    "model": "tiny",
    "seed": 4,
    "threads": 1,
    "out": "never",
    "vlm": {"see": SCHEDULE, "answer": SCHEDULE},
    "hypernetwork": {
        "schedule": SCHEDULE,
        "layers": [0, 2],
        "rank": 2,
        "d_latent": 16,
        "num_latents": 2,
        "num_cross_blocks": 1,
        "groups": 1,
        "rows_per_group": 3,
        "questions_per_row": 2,
    },
}
STAGES = ("see", "answer", "internalize")
FINISHED = (
    "vlm/config.json",
    "vlm/model.safetensors",
    "vlm/tokenizer.json",
    "hypernetwork/hypernetwork.json",
    "hypernetwork/hypernetwork.safetensors",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished run: its config file, its directory and what it reported."""

    config: Path
    directory: Path
    reported: tuple[tuple[str, int, int], ...]

    @property
    def model_config(self) -> ModelConfig:
        """The `tiny` model config, pointed to what was trained."""
        config = load_model_config("tiny")
        vlm = config.vlm.model_copy(update={"path": str(self.directory / "vlm"), "device": "cpu"})
        checkpoint = self.directory / "hypernetwork"
        return config.model_copy(update={"vlm": vlm, "checkpoint": checkpoint})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory = tmp_path_factory.mktemp("training")
    config = directory / "train.yaml"
    config.write_text(yaml.safe_dump(CONTENT))
    reported: list[tuple[str, int, int]] = []
    found = run(
        config,
        out=directory / "run",
        report=lambda stage, step, steps, _: reported.append((stage, step, steps)),
    )
    assert found == directory / "run"
    return Trained(config=config, directory=found, reported=tuple(reported))


def finished_files(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in FINISHED}


def test_every_stage_leaves_a_state_and_a_log_and_the_run_its_curves(trained: Trained) -> None:
    for stage in STAGES:
        left = sorted(path.name for path in (trained.directory / stage).iterdir())
        assert left == ["log.jsonl", "state-000002.safetensors", "state.json"]
        lines = (trained.directory / stage / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (trained.directory / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert trained.reported == tuple(
        (stage, step, 2) for stage in ("see", "answer", "hypernetwork") for step in (1, 2)
    )


def test_the_checkpoint_says_what_it_was_trained_for(trained: Trained) -> None:
    model = load_model(trained.model_config)
    info = model.checkpoint.info
    assert info["vlm_weights_sha256"] == model.vlm.weights_sha256
    assert info["internalization_prompt"] == model.vlm.layout.internalization_prompt
    assert info["segments"] == load_model_config("tiny").segments.model_dump()
    assert info["training"]["seed"] == 4
    assert "out" not in info["training"]
    config = model.hypernetwork.config
    assert (config.layers, config.rank, config.d_latent) == ((0, 2), 2, 16)
    assert config.scaling == pytest.approx(2 * 2**1.5)


def test_the_vlm_is_shipped_in_the_type_it_was_internalized_with(trained: Trained) -> None:
    weights = load_file(trained.directory / "vlm" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert load_model(trained.model_config).vlm.dtype == torch.float32  # the same numbers, widened


def test_the_trained_model_can_sit_the_exam(trained: Trained) -> None:
    config = trained.model_config
    paper = Paper(name="two videos", num_segments=1, num_videos=2)
    marks = list(sit(paper, load_model(config), config))
    assert {mark.mode for mark in marks} == set(COMPOSED_MODES)
    assert {mark.video for mark in marks} == {0, 1}


def test_a_finished_run_is_not_trained_again(trained: Trained) -> None:
    before = finished_files(trained.directory)

    def refuse(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        raise AssertionError(f"{stage} was trained again at step {step}")

    run(trained.config, out=trained.directory, report=refuse)
    assert finished_files(trained.directory) == before


class KilledError(Exception):
    """Stands for the signal that ends the process."""


@pytest.mark.parametrize("killed_in", ["answer", "hypernetwork"])
def test_a_killed_run_leaves_the_same_model_as_an_unbroken_one(
    trained: Trained, tmp_path: Path, killed_in: str
) -> None:
    def kill(stage: str, step: int, steps: int, metrics: Mapping[str, float]) -> None:
        if (stage, step) == (killed_in, 2):
            raise KilledError

    with pytest.raises(KilledError):
        run(trained.config, out=tmp_path / "run", report=kill)
    run(trained.config, out=tmp_path / "run")
    assert finished_files(tmp_path / "run") == finished_files(trained.directory)


def test_the_shipped_training_config_is_valid_and_goes_where_it_says() -> None:
    config = load_config(ROOT / "configs/train/tiny.yaml", TrainConfig)
    assert load_model_config(config.model).name == "tiny"
    assert config.out == Path("runs/tiny")


@pytest.mark.parametrize(
    ("where", "key"), [("", "epochs"), ("vlm", "freeze"), ("hypernetwork", "ranks")]
)
def test_a_misspelt_key_is_refused_by_its_name(tmp_path: Path, where: str, key: str) -> None:
    content = json.loads(json.dumps(CONTENT))
    (content[where] if where else content)[key] = 1
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=rf"unknown key `{where}\.?{key}`"):
        run(path, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_states_of_another_config_are_refused_and_started_over_only_when_asked(
    trained: Trained, tmp_path: Path
) -> None:
    content = json.loads(json.dumps(CONTENT))
    content["seed"] += 1
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(content))
    before = finished_files(trained.directory)
    with pytest.raises(UsageError, match="was trained with another config"):
        run(path, out=trained.directory)
    assert finished_files(trained.directory) == before
