"""The training loop that every stage shares: AdamW, warm-up and cosine, a log, exact resume.

A stage is a function `batch number -> loss and metrics` over named modules. Batches depend on their
number alone, so a run that is killed and resumed sees the same batches and the same optimiser
state: the same loss curve. A step is `accumulate` batches on each of the processes that train
together; batches are numbered over all of them, so what a step sees does not depend on how many
processes share it.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from video2lora_core.errors import UsageError
from video2lora_core.training.metrics_log import Averages, MetricsLog
from video2lora_core.training.state import (
    Saved,
    forget_state,
    load_state,
    save_best,
    save_state,
)
from video2lora_core.training.team import Alone, Team

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How a stage is optimised; `decay_to` is the last learning rate as a share of the first."""

    steps: int
    learning_rate: float
    warmup_steps: int = 50
    decay_to: float = 0.03
    weight_decay: float = 0.01
    beta2: float = 0.98
    clip_norm: float = 1.0
    log_every: int = 50
    save_every: int = 500
    accumulate: int = 1
    """Batches per step and process; their gradients are averaged."""
    evaluate_every: int = 0
    """Steps between two looks at the held-out batches; 0 never looks."""

    def rate(self, step: int) -> float:
        """Return the learning rate's factor: linear warm-up, then a cosine to `decay_to`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.decay_to + (1 - self.decay_to) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """A batch's loss, still on the graph, and plain numbers to log."""

    loss: Tensor
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of training.

    `modules` are saved and trained, except where a parameter has requires_grad=False.
    `rate_factors` multiplies the learning rate of parameters whose name contains a key; they do not
    decay.
    `directory` takes states, log and nothing else.
    `held_out` gives the loss of a held-out batch, of `num_held_out`: the parameters that do best on
    all of them are kept beside the newest.
    """

    name: str
    modules: Mapping[str, nn.Module]
    step: Callable[[int], StepResult]
    schedule: Schedule
    directory: Path
    rate_factors: Mapping[str, float]
    held_out: Callable[[int], float] | None = None
    num_held_out: int = 0
    is_tensorboard: bool = False


Report = Callable[[str, int, int, Mapping[str, float]], None]


def run_stage(
    stage: Stage, *, resume: bool = True, report: Report | None = None, team: Team | None = None
) -> None:
    """Train a stage to its last step; with `resume`, go on from the newest saved state.

    `report(stage, step, steps, metrics)` is called at every logged step. `team` are the processes
    that train together; the first of them writes and reports.

    Raises:
        UsageError: the loss is no finite number.
    """
    team = team or Alone()
    optimizer, parameters = _optimizer(stage), named_parameters(stage)
    if team.rank == 0:
        stage.directory.mkdir(parents=True, exist_ok=True)
        if not resume:  # an earlier run's state must not be what the next resume goes on from
            forget_state(stage.directory)
    team.wait()
    saved = load_state(stage.directory, parameters, optimizer)
    team.wait()  # the first process may soon write the next state
    if saved.step:
        logger.info("%s: going on from step %d", stage.name, saved.step)
    # The norm of all gradients is summed in this order: another one moves the last bits of a run.
    optimised = [p for group in optimizer.param_groups for p in group["params"]]
    with MetricsLog(
        stage.directory,
        first_step=saved.step,
        is_writing=team.rank == 0,
        is_tensorboard=stage.is_tensorboard,
    ) as log:
        record = _Record(stage, parameters, optimizer, saved, log, report)
        for step in range(saved.step, stage.schedule.steps):
            record.seen.add(_make_step(stage, optimizer, optimised, step, team))
            if stage.held_out is not None and is_due(step, stage.schedule.evaluate_every, stage):
                record.compare(step, _held_out_loss(stage, stage.held_out, team))
            record.close(step)
    team.wait()


class _Record:
    """What one process writes down between two steps; only the first one's log is a writing one."""

    def __init__(
        self,
        stage: Stage,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.AdamW,
        saved: Saved,
        log: MetricsLog,
        report: Report | None,
    ) -> None:
        self.stage, self.parameters, self.optimizer = stage, parameters, optimizer
        self.saved, self.log, self.report = saved, log, report
        self.seen, self.started = Averages(saved.pending), time.perf_counter()

    def compare(self, step: int, held_out_loss: float) -> None:
        """Keep the parameters that do best on the held-out batches."""
        self.seen.add({"held_out_loss": held_out_loss})
        best, directory = self.saved.best, self.stage.directory
        if self.log.is_writing and (best is None or held_out_loss < best.loss):
            best = save_best(directory, self.parameters, step=step + 1, loss=held_out_loss)
            self.saved = replace(self.saved, best=best)

    def close(self, step: int) -> None:
        """Write a line of the log and a state, where they are due."""
        schedule = self.stage.schedule
        if is_due(step, schedule.log_every, self.stage):
            metrics = self.seen.take()
            self.log.write(step + 1, metrics, seconds=time.perf_counter() - self.started)
            if self.report is not None and self.log.is_writing:
                self.report(self.stage.name, step + 1, schedule.steps, metrics)
        if self.log.is_writing and is_due(step, schedule.save_every, self.stage):
            self.saved = replace(self.saved, step=step + 1, pending=self.seen.pending())
            save_state(self.stage.directory, self.parameters, self.optimizer, self.saved)


def named_parameters(stage: Stage) -> dict[str, nn.Parameter]:
    """Return what the stage trains, by module and name."""
    return {
        f"{module_name}.{name}": parameter
        for module_name, module in stage.modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _make_step(
    stage: Stage,
    optimizer: torch.optim.AdamW,
    parameters: list[nn.Parameter],
    step: int,
    team: Team,
) -> dict[str, float]:
    """Make one optimiser step and return its metrics; the loss is that of all processes."""
    schedule, seen, losses = stage.schedule, Averages(), []
    for group in optimizer.param_groups:
        group["lr"] = schedule.learning_rate * schedule.rate(step) * group["factor"]
    optimizer.zero_grad(set_to_none=True)
    for turn in range(schedule.accumulate):
        result = stage.step((step * schedule.accumulate + turn) * team.size + team.rank)
        (result.loss / schedule.accumulate).backward()
        losses.append(result.loss.detach())
        seen.add(result.metrics)
    loss = torch.stack(losses).mean()
    if team.size > 1:
        team.mean_([*_gradients(parameters), loss])
    norm = nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
    if not math.isfinite(loss.item()):
        raise UsageError(
            f"{stage.name}: step {step + 1}: the loss is {loss.item()} (expected a finite "
            "number); lower the learning rate and go on from the last state"
        )
    optimizer.step()
    return {"loss": loss.item(), "gradient_norm": norm.item(), **seen.means()}


def _gradients(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Return all gradients; processes exchange the same tensors, so a missing one is zero."""
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


@torch.no_grad()
def _held_out_loss(stage: Stage, held_out: Callable[[int], float], team: Team) -> float:
    """Return the mean over all held-out batches, which the processes share."""
    losses = [held_out(number) for number in range(team.rank, stage.num_held_out, team.size)]
    total = torch.tensor([sum(losses), float(len(losses))])
    team.mean_([total])
    return float(total[0] / total[1])


def is_due(step: int, every: int, stage: Stage) -> bool:
    """Say whether what is done every so many steps follows this one; it follows the last one."""
    return every > 0 and ((step + 1) % every == 0 or step + 1 == stage.schedule.steps)


def _optimizer(stage: Stage) -> torch.optim.AdamW:
    """Group parameters by rate factor and decay: only matrices at the plain rate decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named_parameters(stage).items():
        factor = next((f for key, f in stage.rate_factors.items() if key in name), 1.0)
        is_matrix = parameter.ndim >= 2 and factor == 1.0
        decay = stage.schedule.weight_decay if is_matrix else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "factor": factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
        ],
        betas=(0.9, stage.schedule.beta2),
        fused=True,
    )
