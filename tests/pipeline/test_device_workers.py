"""One worker per device: started with its device, started again, ended with all that it started."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows import device_workers
from flows.device_workers import Supervisor, WorkerPlan, descendants, end_all, parse_devices
from tests.pipeline.shard_fakes import wait_until
from video2lora_core.errors import UsageError


def none() -> int:
    return 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("cpu", ("",)), ("cpu,cpu", ("", "")), ("0,1", ("0", "1")), ("GPU-5ad8", ("GPU-5ad8",))],
)
def test_devices_are_read_as_written(text: str, expected: tuple[str, ...]) -> None:
    assert parse_devices(text, count_devices=none) == expected


def test_all_means_every_visible_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert parse_devices("all", count_devices=lambda: 3) == ("0", "1", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert parse_devices("all", count_devices=lambda: 3) == ("2", "5")


@pytest.mark.parametrize("text", ["all", "", "gpu", "0;1", "-1"])
def test_what_names_no_device_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UsageError, match="--devices"):
        parse_devices(text, count_devices=none)


def plan(*devices: str, grace_s: float = 10) -> WorkerPlan:
    return WorkerPlan(devices=devices, pool="pool", limit=1, grace_s=grace_s)


def shell(script: str) -> Callable[[str], list[str]]:
    return lambda name: ["sh", "-c", script, name]


def run_until(supervisor: Supervisor, is_enough: Callable[[], bool]) -> int:
    """Run a supervisor in this, the main thread, and tell it to end when `is_enough`."""

    def tell() -> None:
        wait_until(is_enough, seconds=60)
        os.kill(os.getpid(), signal.SIGTERM)

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        return supervisor.run()
    finally:
        teller.join()


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def test_each_worker_sees_its_own_device_and_is_prefects(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor(
        plan=plan("3", ""),
        make_command=shell(f'echo "$0 <$CUDA_VISIBLE_DEVICES>" >> {log}; sleep 60'),
    )
    assert run_until(supervisor, lambda: len(lines(log)) == 2) == 0
    assert {line.rpartition("-")[2] for line in lines(log)} == {"3 <3>", "1 <>"}
    command = " ".join(Supervisor(plan=plan("0"))._prefect_command("name"))
    assert command.endswith(
        "-m prefect worker start --pool pool --type process --name name --limit 1"
    )


def test_a_worker_that_dies_is_started_again_and_at_last_given_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor(
        plan=plan(""), make_command=shell(f"echo >> {log}; exit 3"), first_pause_s=0.01
    )
    assert supervisor.run() == 1
    assert len(lines(log)) == device_workers.MAX_RESTARTS + 1


# A worker that starts a "flow run" in a session of its own, as Prefect does.
NESTED = """
import os, subprocess, sys, time
child = subprocess.Popen(["sh", "-c", sys.argv[1]], start_new_session=True)
open(sys.argv[2], "w").write(str(child.pid))
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("script", "most_s"),
    [("trap 'exit 0' TERM; while :; do sleep 0.05; done", 8), ("trap '' TERM; sleep 60", 8)],
)
def test_what_a_worker_started_ends_with_it_even_where_it_would_not(
    script: str, most_s: float, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    process = subprocess.Popen(
        [sys.executable, "-c", NESTED, script, str(pid_file)], start_new_session=True
    )
    wait_until(lambda: bool(lines(pid_file)), seconds=60)
    nested = int(lines(pid_file)[0])
    assert nested in descendants([process.pid])
    time.sleep(0.2)  # for the shell's trap
    started = time.monotonic()
    end_all([process], grace_s=1)
    assert time.monotonic() - started < most_s
    assert process.returncode == -signal.SIGTERM
    wait_until(lambda: not _runs(nested), seconds=10)


def _runs(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
