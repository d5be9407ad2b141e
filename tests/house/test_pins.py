"""The pinned Prefect, FastAPI and SQLAlchemy work together: a server starts and a schedule fires.

Wrong combinations fail silently (the schedule never fires; only the server's log says so), so this
asks a real server of its own, on the loopback interface.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

START_S, SCHEDULE_S = 180, 90


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    settings = {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    }
    options = ["--no-ui", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", *options],
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + START_S
            while not is_up(url):
                assert server.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                assert time.monotonic() < deadline, "the server did not answer"
                time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            server.wait(timeout=60)


async def scheduled_runs(url: str) -> int:
    """Create a deployment with a schedule and count the runs that the server makes for it."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: url}):
        async with get_client() as client:
            flow_id = await client.create_flow_from_name("scheduled")
            every_minute = IntervalSchedule(interval=timedelta(minutes=1))
            await client.create_deployment(
                flow_id,
                name="every-minute",
                schedules=[DeploymentScheduleCreate(schedule=every_minute, active=True)],
            )
            deadline = time.monotonic() + SCHEDULE_S
            runs = await client.read_flow_runs()
            while not runs and time.monotonic() < deadline:
                await asyncio.sleep(1)
                runs = await client.read_flow_runs()
            return len(runs)


def test_a_schedule_fires_with_the_pinned_set(server_url: str) -> None:
    assert asyncio.run(scheduled_runs(server_url)) > 0
