"""The training loop that every stage shares: AdamW, warm-up and cosine, a log, exact resume.

A stage is a function `step -> loss and metrics` over named modules. Its batches depend on the step
number alone, so a run that is killed and resumed sees the same batches and the same optimiser
state: the same loss curve. State files are safetensors plus JSON; the JSON is written last and
names the state that is whole.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)

POINTER = "state.json"  # names the newest state that is whole


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

    def rate(self, step: int) -> float:
        """Return the learning rate's factor: linear warm-up, then a cosine to `decay_to`."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.decay_to + (1 - self.decay_to) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """A step's loss, still on the graph, and plain numbers to log."""

    loss: Tensor
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of training.

    `modules` are saved and trained, except where a parameter has requires_grad=False.
    `rate_factors` multiplies the learning rate of parameters whose name contains a key; they do not
    decay.
    `directory` takes state, log and nothing else.
    """

    name: str
    modules: Mapping[str, nn.Module]
    step: Callable[[int], StepResult]
    schedule: Schedule
    directory: Path
    rate_factors: Mapping[str, float]


Report = Callable[[str, int, int, Mapping[str, float]], None]


def run_stage(stage: Stage, *, resume: bool = True, report: Report | None = None) -> None:
    """Train a stage to its last step; with `resume`, go on from the newest saved state.

    `report(stage, step, steps, metrics)` is called at every logged step.
    """
    optimizer = _optimizer(stage)
    stage.directory.mkdir(parents=True, exist_ok=True)
    if not resume:  # an earlier run's state must not be what the next resume goes on from
        (stage.directory / POINTER).unlink(missing_ok=True)
    first = _load(stage, optimizer) if resume else 0
    log = stage.directory / "log.jsonl"
    _cut_log(log, first)
    schedule, started, seen = stage.schedule, time.perf_counter(), _Averages()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(first, schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.rate(step) * group["factor"]
        result = stage.step(step)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, schedule.clip_norm)
        optimizer.step()
        seen.add({"loss": result.loss.item(), "gradient_norm": norm.item(), **result.metrics})
        if (step + 1) % schedule.log_every == 0 or step + 1 == schedule.steps:
            row = {"step": step + 1, "seconds": round(time.perf_counter() - started, 1)}
            metrics = seen.take()
            with log.open("a") as lines:
                lines.write(json.dumps({**row, **metrics}) + "\n")
            if report is not None:
                report(stage.name, step + 1, schedule.steps, metrics)
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            _save(stage, optimizer, step + 1)


class _Averages:
    """Means of the metrics since they were last taken; a metric may be missing in some steps."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def take(self) -> dict[str, float]:
        means = {name: round(sum(v) / len(v), 5) for name, v in sorted(self._values.items())}
        self._values.clear()
        return means


def _named_parameters(stage: Stage) -> dict[str, nn.Parameter]:
    return {
        f"{module_name}.{name}": parameter
        for module_name, module in stage.modules.items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _optimizer(stage: Stage) -> torch.optim.AdamW:
    """Group parameters by rate factor and decay: only matrices at the plain rate decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in _named_parameters(stage).items():
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


def _save(stage: Stage, optimizer: torch.optim.AdamW, step: int) -> None:
    tensors: dict[str, Tensor] = {}
    for name, parameter in _named_parameters(stage).items():
        tensors[f"parameter.{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    file = stage.directory / f"state-{step:06d}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    pointer = stage.directory / POINTER
    draft = pointer.with_suffix(".draft")
    draft.write_text(json.dumps({"step": step, "file": file.name}))
    draft.replace(pointer)
    for old in stage.directory.glob("state-*.safetensors"):
        if old != file:
            old.unlink()


def _load(stage: Stage, optimizer: torch.optim.AdamW) -> int:
    pointer = stage.directory / POINTER
    if not pointer.exists():
        return 0
    saved = json.loads(pointer.read_text())
    tensors = load_file(stage.directory / saved["file"])
    for name, parameter in _named_parameters(stage).items():
        with torch.no_grad():
            parameter.copy_(tensors[f"parameter.{name}"])
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value.clone()
            for key, value in tensors.items()
            if key.startswith(prefix) and "." not in key.removeprefix(prefix)
        }
    logger.info("%s: going on from step %d", stage.name, saved["step"])
    return int(saved["step"])


def _cut_log(log: Path, step: int) -> None:
    """Drop the lines of steps that will be run again."""
    if log.exists():
        lines = [line for line in log.read_text().splitlines() if json.loads(line)["step"] <= step]
        log.write_text("".join(line + "\n" for line in lines))
