"""The training loop: its schedule, its log, and that a killed run ends as an unbroken one does."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from video2lora_core.errors import UsageError
from video2lora_core.training.curves import draw_curves, read_log
from video2lora_core.training.loop import (
    Schedule,
    Stage,
    StepResult,
    named_parameters,
    run_stage,
)
from video2lora_core.training.state import load_best

SCHEDULE = Schedule(
    steps=6, learning_rate=0.1, warmup_steps=2, save_every=3, log_every=1, weight_decay=0.1
)


class KilledError(Exception):
    """Stands for the signal that ends a process between two instructions."""


class Lesson:
    """A small network that learns from batches which the step number alone decides."""

    def __init__(self, *, seed: int, die_at: int | None = None) -> None:
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.die_at = die_at
        self.first = 0
        self.steps: list[int] = []

    def __call__(self, step: int) -> StepResult:
        if step == self.die_at:
            raise KilledError
        self.steps.append(step)
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        return StepResult(loss=loss, metrics={f"odd_{step % 2}": float(step)})

    def stage(self, directory: Path, **changed: object) -> Stage:
        stage = Stage(
            name="lesson",
            modules={"network": self.network, "frozen": self.frozen},
            step=self,
            schedule=SCHEDULE,
            directory=directory,
            rate_factors={"2.bias": 3.0},
        )
        return replace(stage, **changed)

    def parameters(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.network.parameters()]


def log_of(directory: Path) -> list[dict[str, float]]:
    """The log without the clock."""
    lines = read_log(directory / "log.jsonl")
    return [{name: value for name, value in row.items() if name != "seconds"} for row in lines]


def taught(directory: Path, *, seed: int = 1, die_at: int | None = None) -> Lesson:
    lesson = Lesson(seed=seed, die_at=die_at)
    if die_at is None:
        run_stage(lesson.stage(directory))
    else:
        with pytest.raises(KilledError):
            run_stage(lesson.stage(directory))
    return lesson


def assert_same(one: Lesson, other: Lesson) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def straight(tmp_path: Path) -> Lesson:
    """Six steps without a break, under `tmp_path/straight`."""
    return taught(tmp_path / "straight")


@pytest.mark.parametrize("die_at", [1, 3, 4, 5])
def test_a_killed_run_ends_with_the_parameters_and_the_log_of_an_unbroken_one(
    tmp_path: Path, straight: Lesson, die_at: int
) -> None:
    taught(tmp_path / "broken", die_at=die_at)
    # Where a state was saved the fresh process may start from any weights: it reads them.
    resumed = taught(tmp_path / "broken", seed=1 if die_at < 3 else 99)
    assert resumed.steps == list(range(0 if die_at < 3 else 3, 6))
    assert_same(resumed, straight)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "straight")


def test_a_kill_between_state_and_pointer_leaves_the_older_state_in_use(
    tmp_path: Path, straight: Lesson
) -> None:
    directory, kept = tmp_path / "broken", tmp_path / "kept"
    taught(directory, die_at=3)
    shutil.copytree(directory, kept)
    taught(directory, seed=99)
    # Put back what stood there before the pointer moved: both states, the pointer at the older.
    shutil.copy(kept / "state.json", directory)
    shutil.copy(kept / "state-000003.safetensors", directory)
    resumed = taught(directory, seed=98)
    assert resumed.steps == [3, 4, 5]
    assert_same(resumed, straight)


def test_a_half_written_state_is_not_used_and_goes_away(tmp_path: Path, straight: Lesson) -> None:
    directory = tmp_path / "broken"
    taught(directory, die_at=4)
    (directory / "state-000006.safetensors").write_bytes(b"half a st")
    (directory / "state-000005.safetensors").write_bytes(b"another")
    (directory / "state.draft").write_text('{"step": 5')
    assert_same(taught(directory, seed=99), straight)
    assert sorted(path.name for path in directory.iterdir()) == [
        "log.jsonl",
        "state-000006.safetensors",
        "state.json",
    ]


def test_a_finished_stage_is_not_run_again_but_its_parameters_are_there(
    tmp_path: Path, straight: Lesson
) -> None:
    again = taught(tmp_path / "straight", seed=99)
    assert again.steps == []
    assert_same(again, straight)


def test_without_resume_a_stage_starts_from_its_first_step(tmp_path: Path) -> None:
    first = taught(tmp_path)
    second = Lesson(seed=1)
    run_stage(second.stage(tmp_path), resume=False)
    assert second.steps == list(range(6))
    assert_same(first, second)
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_the_log_averages_what_was_seen_since_its_last_line(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int, Mapping[str, float]]] = []
    stage = Lesson(seed=1).stage(tmp_path, schedule=replace(SCHEDULE, log_every=4))
    run_stage(stage, report=lambda *row: reported.append(row))
    first, last = log_of(tmp_path)
    assert (first["step"], last["step"]) == (4, 6)
    assert (first["odd_0"], first["odd_1"]) == (1.0, 2.0)  # steps 0 and 2, steps 1 and 3
    assert (last["odd_0"], last["odd_1"]) == (4.0, 5.0)
    assert [(name, step, steps) for name, step, steps, _ in reported] == [
        ("lesson", 4, 6),
        ("lesson", 6, 6),
    ]
    assert all(set(row) == {"loss", "gradient_norm", "odd_0", "odd_1"} for *_, row in reported)


def test_frozen_parameters_stay_and_are_not_saved(tmp_path: Path) -> None:
    lesson = Lesson(seed=1)
    before = lesson.frozen.weight.clone()
    run_stage(lesson.stage(tmp_path))
    assert torch.equal(lesson.frozen.weight, before)
    with safe_open(tmp_path / "state-000006.safetensors", framework="pt") as state:
        names = set(state.keys())
    trained = {f"network.{name}" for name, _ in lesson.network.named_parameters()}
    assert {name.removeprefix("parameter.") for name in names if name.startswith("p")} == trained


def test_the_pointer_names_the_newest_state(tmp_path: Path) -> None:
    taught(tmp_path)
    pointer = json.loads((tmp_path / "state.json").read_text())
    assert pointer == {"step": 6, "file": "state-000006.safetensors"}


def test_a_last_line_that_a_kill_tore_is_left_out_on_resume(
    tmp_path: Path, straight: Lesson
) -> None:
    taught(tmp_path / "broken", die_at=5)
    log = tmp_path / "broken" / "log.jsonl"
    log.write_text(log.read_text()[:-20])
    assert_same(taught(tmp_path / "broken", seed=99), straight)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "straight")


def test_what_was_seen_but_not_logged_before_a_kill_is_in_the_next_line(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, log_every=2)  # states are saved after steps 3 and 6
    run_stage(Lesson(seed=1).stage(tmp_path / "straight", schedule=schedule))
    with pytest.raises(KilledError):
        run_stage(Lesson(seed=1, die_at=3).stage(tmp_path / "broken", schedule=schedule))
    run_stage(Lesson(seed=99).stage(tmp_path / "broken", schedule=schedule))
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "straight")
    assert [row["step"] for row in log_of(tmp_path / "broken")] == [2, 4, 6]


class Halves(Lesson):
    """Gives a lesson's batch in two halves, numbered one after the other."""

    def __call__(self, step: int) -> StepResult:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step // 2))
        x = x[step % 2 :: 2]
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        return StepResult(loss=loss, metrics={})


class Wholes(Lesson):
    """Gives the same batch at once."""

    def __call__(self, step: int) -> StepResult:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        loss = (self.network(x) - x.sum(1, keepdim=True)).square().mean()
        return StepResult(loss=loss, metrics={})


def test_accumulated_batches_teach_what_one_large_batch_does(tmp_path: Path) -> None:
    halves, wholes = Halves(seed=1), Wholes(seed=1)
    run_stage(halves.stage(tmp_path / "halves", schedule=replace(SCHEDULE, accumulate=2)))
    run_stage(wholes.stage(tmp_path / "wholes"))
    for a, b in zip(halves.parameters(), wholes.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    losses = [[row["loss"] for row in log_of(tmp_path / name)] for name in ("halves", "wholes")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def measured(directory: Path, lesson: Lesson, losses: list[float]) -> Stage:
    """A stage whose held-out losses after steps 2, 4 and 6 are given."""

    def held_out(number: int) -> float:
        done = len(lesson.steps) + lesson.first
        return losses[done // 2 - 1] + (0.5 if number else -0.5)

    schedule = replace(SCHEDULE, evaluate_every=2)
    return lesson.stage(directory, schedule=schedule, held_out=held_out, num_held_out=2)


@pytest.mark.parametrize("die_at", [None, 3, 5])
def test_the_parameters_that_do_best_on_held_out_batches_are_kept_also_over_a_kill(
    tmp_path: Path, die_at: int | None
) -> None:
    losses = [3.0, 1.0, 2.0]
    lesson = Lesson(seed=1, die_at=die_at)
    if die_at is not None:
        with pytest.raises(KilledError):
            run_stage(measured(tmp_path, lesson, losses))
        lesson = Lesson(seed=99)
        lesson.first = 3
    run_stage(measured(tmp_path, lesson, losses))
    unbroken = Lesson(seed=1)
    four_steps = unbroken.stage(tmp_path / "four")
    unbroken.die_at = 4
    with pytest.raises(KilledError):
        run_stage(four_steps)
    best = load_best(tmp_path, named_parameters(lesson.stage(tmp_path)))
    assert best is not None
    assert (best.step, best.loss) == (4, 1.0)
    assert_same(lesson, unbroken)
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-000004.safetensors"]


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path) -> None:
    lesson = Lesson(seed=1)

    def step(_: int) -> StepResult:
        return StepResult(loss=lesson.network[0].weight.sum() * math.nan, metrics={})

    with pytest.raises(UsageError, match="step 1: the loss is nan"):
        run_stage(lesson.stage(tmp_path, step=step))


def test_tensorboard_is_given_what_the_log_is_given(tmp_path: Path) -> None:
    run_stage(Lesson(seed=1).stage(tmp_path, is_tensorboard=True))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    shown = [(event.step, round(event.value, 4)) for event in events.Scalars("loss")]
    assert shown == [(row["step"], round(row["loss"], 4)) for row in log_of(tmp_path)]


def one_step(stage: Stage, gradient: float) -> dict[str, torch.Tensor]:
    """How much each parameter moves in one step with this gradient everywhere."""
    network = stage.modules["network"]
    before = {name: p.detach().clone() for name, p in network.named_parameters()}

    def step(_: int) -> StepResult:
        total = torch.stack([p.sum() for p in network.parameters()]).sum()
        return StepResult(loss=gradient * total, metrics={})

    run_stage(replace(stage, step=step, schedule=replace(stage.schedule, steps=1)))
    return {name: p.detach() - before[name] for name, p in network.named_parameters()}


def test_the_rate_is_the_schedules_times_the_factor_of_the_name(tmp_path: Path) -> None:
    schedule = replace(SCHEDULE, weight_decay=0.0)
    moved = one_step(Lesson(seed=1).stage(tmp_path, schedule=schedule), gradient=1.0)
    rate = 0.1 / 2  # the first of two warm-up steps; Adam's first step is the rate times the sign
    for name, change in moved.items():
        factor = 3.0 if name == "2.bias" else 1.0
        assert torch.allclose(change, torch.full_like(change, -rate * factor), rtol=1e-4)


def test_only_matrices_at_the_plain_rate_decay(tmp_path: Path) -> None:
    lesson = Lesson(seed=1)
    before = {name: p.detach().clone() for name, p in lesson.network.named_parameters()}
    moved = one_step(lesson.stage(tmp_path, rate_factors={"2.weight": 3.0}), gradient=0.0)
    expected = -0.1 / 2 * 0.1 * before["0.weight"]
    assert torch.allclose(moved.pop("0.weight"), expected, atol=1e-7)
    assert all(torch.equal(change, torch.zeros_like(change)) for change in moved.values())


@given(st.integers(1, 50), st.integers(1, 500), st.floats(0.0, 1.0))
def test_the_rate_rises_in_a_line_and_falls_in_a_cosine(
    warmup_steps: int, more: int, decay_to: float
) -> None:
    steps = warmup_steps + more
    schedule = Schedule(
        steps=steps, learning_rate=1.0, warmup_steps=warmup_steps, decay_to=decay_to
    )
    rates = [schedule.rate(step) for step in range(steps)]
    for step in range(warmup_steps):
        assert rates[step] == pytest.approx((step + 1) / warmup_steps)
    for step in range(warmup_steps, steps):
        share = (1 + math.cos(math.pi * (step - warmup_steps) / more)) / 2
        assert rates[step] == pytest.approx(decay_to + (1 - decay_to) * share)
    assert schedule.rate(steps) == pytest.approx(decay_to)


def test_curves_are_drawn_of_the_stages_that_have_a_log(tmp_path: Path) -> None:
    rows = {
        "see": {"loss": 2.0, "frame_colour_right": 0.3},
        "internalize": {"loss": 3.0, "right_1_motion": 0.5, "right_4_colour": 0.2},
    }
    for name, row in rows.items():
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": step, "seconds": 1.0, **row}) + "\n" for step in (25, 50)]
        (tmp_path / name / "log.jsonl").write_text("".join(lines))
    draw_curves(tmp_path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
