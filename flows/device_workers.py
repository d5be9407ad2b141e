"""One Prefect worker process per device, kept alive, and ended with their shards in bounded time.

Prefect starts every flow run in a process of its own that inherits its worker's environment, so
CUDA_VISIBLE_DEVICES set for a worker is what ties a shard to a device. Prefect's own answer to
SIGTERM is to wait for running flows however long they take; here they are told to end too: a shard
commits what is complete (tasks/termination.py), and `reconcile` submits the rest again.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from video2lora_core.errors import UsageError

logger = logging.getLogger(__name__)

DEVICE_POOL: Final = "video2lora-device"
CONTROL_POOL: Final = "video2lora-control"
MAX_RESTARTS: Final = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_STEADY_S: Final = 300.0  # a worker that lived so long has recovered: its deaths count anew
_POLL_S: Final = 0.2
_LEAST_S: Final = 5.0  # what a worker without a flow run needs to end


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """Which workers to run."""

    devices: tuple[str, ...]
    """Per worker what CUDA_VISIBLE_DEVICES is set to; empty for a worker without a GPU."""
    pool: str
    limit: int
    """Flow runs that a worker has at a time."""
    grace_s: float
    """How long shards have to end when told to, before they are killed."""


@dataclass(kw_only=True, slots=True)
class _Worker:
    name: str
    command: list[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    start_again_s: float = 0.0
    num_deaths: int = 0


@dataclass(kw_only=True, slots=True)
class Supervisor:
    """Starts the workers of a plan and keeps them running until told to end."""

    plan: WorkerPlan
    make_command: Callable[[str], list[str]] | None = None
    """The command of a worker, from its name; Prefect's where not given."""
    first_pause_s: float = _FIRST_PAUSE_S
    _is_told: bool = False
    _workers: list[_Worker] = field(default_factory=list)

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until a worker could not be kept alive.

        Returns:
            0 where it was told to end, 1 where a worker died too often.
        """
        previous = {n: signal.signal(n, self._told) for n in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._workers = self._make_workers()
            while not self._is_told and self._keep_alive():
                time.sleep(_POLL_S)
            return 0 if self._is_told else 1
        finally:
            end_all([w.process for w in self._workers if w.process], grace_s=self.plan.grace_s)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _told(self, number: int, _: FrameType | None) -> None:
        logger.warning("%s: ending the workers and their runs", signal.Signals(number).name)
        self._is_told = True

    def _make_workers(self) -> list[_Worker]:
        make = self.make_command or self._prefect_command
        workers = []
        for number, device in enumerate(self.plan.devices):
            name = f"{socket.gethostname()}-{f'cuda-{device}' if device else f'cpu-{number}'}"
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": device}
            workers.append(_Worker(name=name, command=make(name), environment=environment))
        return workers

    def _prefect_command(self, name: str) -> list[str]:
        options = ["--pool", self.plan.pool, "--type", "process", "--name", name]
        limit = ["--limit", str(self.plan.limit)]
        return [sys.executable, "-m", "prefect", "worker", "start", *options, *limit]

    def _keep_alive(self) -> bool:
        """Start what does not run; False where a worker has died too often."""
        now = time.monotonic()
        for worker in self._workers:
            if worker.process is None:
                if now >= worker.start_again_s:
                    _start(worker)
            elif worker.process.poll() is not None and not self._note_death(worker):
                return False
        return True

    def _note_death(self, worker: _Worker) -> bool:
        assert worker.process is not None
        now = time.monotonic()
        # What it ran lives on in a session of its own and would share the device with the next.
        status = worker.process.returncode
        worker.process = None
        worker.num_deaths = 1 if now - worker.started_s > _STEADY_S else worker.num_deaths + 1
        if worker.num_deaths > MAX_RESTARTS:
            logger.error("worker %s: ended %d times in a row; giving up", worker.name, MAX_RESTARTS)
            return False
        pause_s = min(self.first_pause_s * 2 ** (worker.num_deaths - 1), _LONGEST_PAUSE_S)
        worker.start_again_s = now + pause_s
        logger.warning(
            "worker %s: ended with status %d; started again in %.0f s", worker.name, status, pause_s
        )
        return True


def parse_devices(text: str, *, count_devices: Callable[[], int]) -> tuple[str, ...]:
    """Read `all`, `0,1` or `cpu` as one CUDA_VISIBLE_DEVICES per worker.

    Raises:
        UsageError: the text is none of these, or `all` finds no device.
    """
    if text == "all":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        named = [name for name in (visible or "").split(",") if name]
        found = tuple(named) if visible is not None else tuple(map(str, range(count_devices())))
        if not found:
            raise UsageError(
                "--devices all: no CUDA device is visible; name devices, or give --devices cpu"
            )
        return found
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "cpu" or part.isdecimal() or part.startswith("GPU-") for part in parts):
        raise UsageError(
            f"--devices {text}: not a list of devices; give `all`, `cpu`, or numbers such as 0,1"
        )
    return tuple("" if part == "cpu" else part for part in parts)


def end_all(processes: Sequence[subprocess.Popen[bytes]], *, grace_s: float) -> None:
    """End processes and what they started: SIGTERM, and after `grace_s` SIGKILL.

    The flow runs come first: a Prefect worker that is told to end kills those that it has.
    """
    pids = [process.pid for process in processes]
    deadline = time.monotonic() + grace_s
    _end_flow_runs(pids, deadline)
    below = descendants(pids)
    for pid in pids:
        _send(pid, signal.SIGTERM)
    deadline = max(deadline, time.monotonic() + _LEAST_S)
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(_POLL_S)
    for pid in [*below, *(process.pid for process in processes if process.poll() is None)]:
        _send(pid, signal.SIGKILL)
    for process in processes:
        process.wait()


def _end_flow_runs(pids: Sequence[int], deadline: float) -> None:
    """Tell what leads a session of its own below these processes to end, and wait for it."""
    told: set[int] = set()
    while time.monotonic() < deadline:
        # Prefect gives each flow run a session; a worker may start another one meanwhile.
        leaders = {pid for pid in descendants(pids) if _is_leader(pid) and _is_alive(pid)}
        for pid in leaders - told:
            _send(pid, signal.SIGTERM)
        told |= leaders
        if not leaders:
            return
        time.sleep(_POLL_S)


def descendants(pids: Sequence[int]) -> list[int]:
    """List the processes below some processes, from the system's process table."""
    children: dict[int, list[int]] = {}
    for pid, parent in _process_table():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = list(pids)
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _start(worker: _Worker) -> None:
    # A session of its own: a terminal's Ctrl-C reaches this process alone, which passes it on once.
    worker.process = subprocess.Popen(
        worker.command, env=dict(worker.environment), start_new_session=True
    )
    worker.started_s = time.monotonic()
    logger.info("worker %s: process %d", worker.name, worker.process.pid)


def _process_table() -> list[tuple[int, int]]:
    if sys.platform == "linux":
        return [pair for path in Path("/proc").iterdir() if (pair := _pid_and_parent(path))]
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True)
    return [(int(pid), int(parent)) for pid, parent in map(str.split, done.stdout.splitlines())]


def _pid_and_parent(path: Path) -> tuple[int, int] | None:
    try:
        # "PID (name) state PPID ...": the name may hold anything.
        fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return int(path.name), int(fields.split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _is_leader(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] == "Z"


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return  # it has ended
