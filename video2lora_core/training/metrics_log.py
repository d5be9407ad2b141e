"""What a stage writes down while it learns: a line of JSON per logged step, and TensorBoard's file.

A kill may leave the last line half written. It belongs to a step that will be run again or to one
whose state was saved after it; either way the lines are cut to what is whole and not run again.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)


class Averages:
    """Means of the metrics since they were last taken; a metric may be missing in some steps."""

    def __init__(self, pending: Mapping[str, Sequence[float]] | None = None) -> None:
        """Begin with nothing, or with what a saved state had seen since the last line."""
        self._values = {name: list(values) for name, values in (pending or {}).items()}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Note a step's metrics."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value)

    def pending(self) -> dict[str, list[float]]:
        """Return the values that no line of the log holds yet."""
        return {name: list(values) for name, values in self._values.items()}

    def means(self) -> dict[str, float]:
        """Return the means as they are."""
        return {name: sum(values) / len(values) for name, values in self._values.items()}

    def take(self) -> dict[str, float]:
        """Return the means, rounded, and forget the values."""
        means = {name: round(value, 5) for name, value in sorted(self.means().items())}
        self._values.clear()
        return means


class MetricsLog:
    """Appends to `log.jsonl` in a stage's directory, and to TensorBoard's files where asked to."""

    def __init__(
        self,
        directory: Path,
        *,
        first_step: int,
        is_writing: bool = True,
        is_tensorboard: bool = False,
    ) -> None:
        """Cut what stands in the log beyond `first_step`; one that is not writing does nothing."""
        self.is_writing = is_writing
        self._path = directory / "log.jsonl"
        self._writer: Any = None
        if is_writing:
            cut_log(self._path, first_step)
            self._writer = _tensorboard(directory, first_step) if is_tensorboard else None

    def __enter__(self) -> "MetricsLog":
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, metrics: Mapping[str, float], *, seconds: float) -> None:
        """Write one line; `seconds` since this process began the stage."""
        if not self.is_writing:
            return
        with self._path.open("a") as lines:
            lines.write(json.dumps({"step": step, "seconds": round(seconds, 1), **metrics}) + "\n")
        if self._writer is not None:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)


def cut_log(log: Path, step: int) -> None:
    """Drop the lines of steps that will be run again, and a last line that a kill tore."""
    if not log.exists():
        return
    kept = []
    for number, line in enumerate(log.read_text().splitlines(), start=1):
        try:
            is_kept = json.loads(line)["step"] <= step
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: line %d is not whole; left out", log, number)
            continue
        if is_kept:
            kept.append(line + "\n")
    draft = log.with_suffix(".draft")
    draft.write_text("".join(kept))
    draft.replace(log)


def _tensorboard(directory: Path, first_step: int) -> Any:
    # Imported where it is asked for: it belongs to the extra `train`.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory / "tensorboard"), purge_step=first_step + 1)
