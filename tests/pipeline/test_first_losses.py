"""The embedded default's training begins as it always has: its first losses stand here.

Whoever changes the loop, a stage or the order in which numbers are summed sees it here and not in
an hour. On the machine where they were recorded the losses are equal bit for bit; another CPU's
kernels round otherwise, and after a few steps that is far below the tolerance.
"""

import dataclasses
from pathlib import Path

import pytest
import torch

from configs.load import load_config, load_model_config
from configs.train_schema import TrainConfig
from tasks import train
from tasks.models import load_frozen
from video2lora_core.training import loop

ROOT = Path(__file__).parents[2]
NUM_STEPS = 3
FIRST_LOSSES = {
    "see": (5.232234001159668, 4.59529972076416, 3.5049142837524414),
    "answer": (8.578015327453613, 8.982748031616211, 8.676050186157227),
    "hypernetwork": (1.612278699874878, 1.5523686408996582, 1.413045883178711),
}


class EnoughError(Exception):
    """Ends a stage after its first steps."""


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Let every stage end after its first steps, and keep their losses."""
    losses: dict[str, list[float]] = {}

    def run_stage(stage: loop.Stage, **settings: object) -> None:
        def step(number: int) -> loop.StepResult:
            if number == NUM_STEPS:
                raise EnoughError
            result = stage.step(number)
            losses.setdefault(stage.name, []).append(result.loss.item())
            return result

        with pytest.raises(EnoughError):
            loop.run_stage(dataclasses.replace(stage, step=step), **settings)

    monkeypatch.setattr(train, "run_stage", run_stage)
    return losses


@pytest.mark.slow
def test_the_first_losses_of_every_stage_are_those_of_the_shipped_weights(
    recorded: dict[str, list[float]], tmp_path: Path
) -> None:
    config = load_config(ROOT / "configs/train/tiny.yaml", TrainConfig)
    torch.set_num_threads(config.threads)
    train.train_vlm(config, tmp_path, resume=False, report=None)
    model_config = load_model_config("tiny")
    vlm = load_frozen(model_config)
    train.train_hypernetwork(config, model_config, vlm, tmp_path, resume=False, report=None)
    assert list(recorded) == list(FIRST_LOSSES)
    for name, losses in FIRST_LOSSES.items():
        assert recorded[name] == pytest.approx(losses, rel=1e-4), name
