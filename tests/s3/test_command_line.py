"""The commands against stores that cannot be used: one line, soon."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.s3.servers import SECRET_KEY, Server, environment, free_port

# Generous, because the machine may be busy: the point is that it is not minutes.
BOUND_S = 60.0
COMMANDS = {
    "sql": ["sql", "select 1", "--lake", "s3://no-such-lake/lake"],
    "ask": ["ask", "v.mp4", "What?", "--lake", "s3://no-such-lake/lake"],
    "internalize": ["internalize", "s3://no-such-lake/videos", "--lake", "s3://no-such-lake/lake"],
}


@pytest.fixture
def silence() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield int(listener.getsockname()[1])


def call(command: str, settings: dict[str, str], home: Path) -> tuple[str, float]:
    """Run a command in a process that knows only `settings` of S3; give its error and time."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    arguments = [sys.executable, "-m", "flows.cli", *COMMANDS[command]]
    started = time.monotonic()
    done = subprocess.run(
        arguments,
        env={**plain, "HOME": str(home), **settings},
        capture_output=True,
        text=True,
        timeout=4 * BOUND_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert SECRET_KEY not in done.stderr
    return done.stderr, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("command", ["ask", "internalize"])
def test_without_credentials_a_command_says_so_and_does_not_wait_for_a_cloud(
    command: str, silence: int, tmp_path: Path
) -> None:
    # Where a cloud machine would keep its role there is only silence.
    settings = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{silence}"}
    said, seconds = call(command, settings, tmp_path)
    assert "credentials" in said
    assert seconds < BOUND_S


@pytest.mark.parametrize("command", ["sql", pytest.param("internalize", marks=pytest.mark.slow)])
def test_without_a_server_a_command_gives_up_soon(command: str, tmp_path: Path) -> None:
    said, seconds = call(command, environment(f"http://127.0.0.1:{free_port()}"), tmp_path)
    assert "s3://no-such-lake" in said or "no-such-lake" in said
    assert seconds < BOUND_S


@pytest.mark.parametrize("command", ["sql", pytest.param("internalize", marks=pytest.mark.slow)])
def test_a_bucket_that_is_not_there_is_named(command: str, server: Server, tmp_path: Path) -> None:
    said, seconds = call(command, environment(server.endpoint), tmp_path)
    assert "s3://no-such-lake" in said
    assert seconds < BOUND_S
