"""Real Prefect servers and workers for tests: processes on loopback, ended for sure."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.device_workers import end_all

ROOT = Path(__file__).resolve().parents[2]
START_S = 240
SETTINGS = {
    # The code under test, also in the processes that workers start elsewhere.
    "PYTHONPATH": str(ROOT),
    "PWD": str(ROOT),
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    # What these tests do not need takes time from a small machine's server.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_FOREMAN_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: str, look: Callable[[], Any], *, seconds: float) -> Any:
    """Wait until `look` returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.25)
    return found


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server and how to reach it."""

    url: str
    folder: Path
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]

    def run(self, *command: str, timeout: float = 240) -> str:
        """Run `python -m ...` against the server and return its output."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            env=dict(self.environment),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def prefect(self, *arguments: str) -> str:
        return self.run("prefect", "--no-prompt", *arguments)

    def video2lora(self, *arguments: str) -> str:
        return self.run("flows.cli", *arguments)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask the server's REST API, again where it is too busy to answer."""
        for _ in range(5):
            try:
                return self._post(path, body)
            except (TimeoutError, urllib.error.URLError) as error:
                if getattr(error, "code", 503) not in (500, 503):
                    raise
                time.sleep(2)
        return self._post(path, body)

    def _post(self, path: str, body: Mapping[str, Any] | None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            data=json.dumps(body or {}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def deployment_id(self, name: str) -> str:
        """Return the id of a deployment."""
        [found] = self.post("deployments/filter", {"deployments": {"name": {"any_": [name]}}})
        return str(found["id"])

    def start_run(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Start a run of a deployment now."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        self.post(f"deployments/{self.deployment_id(name)}/create_flow_run", body)

    def pause(self, name: str) -> None:
        """Stop a deployment's schedules."""
        self.post(f"deployments/{self.deployment_id(name)}/pause_deployment")

    def flow_runs(self, deployment: str) -> list[dict[str, Any]]:
        """List the runs of a deployment, oldest first."""
        name = {"name": {"any_": [deployment]}}
        found = self.post(
            "flow_runs/filter", {"deployments": name, "sort": "START_TIME_ASC", "limit": 200}
        )
        return sorted(found, key=lambda run: run["created"])

    @contextmanager
    def worker(self, name: str, pool: str, *, limit: int = 1) -> Iterator[subprocess.Popen[bytes]]:
        """Run `prefect worker start`."""
        options = ["--pool", pool, "--type", "process", "--name", name, "--limit", str(limit)]
        command = [sys.executable, "-m", "prefect", "worker", "start", *options]
        with self.process_of(name, command) as process:
            yield process

    @contextmanager
    def process_of(self, name: str, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process with the server's settings; what it started ends with it."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(self.environment),
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            end_all([process], grace_s=20)


@contextmanager
def prefect_server(folder: Path, **settings: str) -> Iterator[Server]:
    """Run a server with a home of its own until the block ends."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    home = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": url}
    environment = {**os.environ, **SETTINGS, **home, **settings}
    options = ["--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", *options],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "server.log").read_text()[-3000:]
            return is_up(url)

        wait_for("the server's answer", answers, seconds=START_S)
        yield Server(url=url, folder=folder, environment=environment, process=process)
    finally:
        end_all([process], grace_s=20)


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
