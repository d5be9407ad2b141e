"""Prefect's server on PostgreSQL, as for several machines: it starts, runs, keeps its states."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.device_workers import CONTROL_POOL
from storage.lake import open_lake
from tests.pipeline.postgresql_server import MIN_VERSION, find_programs, postgresql_server
from tests.pipeline.prefect_servers import prefect_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]


@pytest.fixture
def postgresql() -> Iterator[str]:
    """The address of an empty database, as postgresql://user@host:port/name."""
    programs = find_programs()
    if programs is None:
        pytest.skip(f"needs PostgreSQL >= {MIN_VERSION} with its contributed extensions")
    with postgresql_server(programs) as url:
        yield url


async def states(url: str) -> list[tuple[str, str]]:
    """Read the flow runs' states from the database itself."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "select d.name, r.state_type::text as state from flow_run r "
            "join deployment d on d.id = r.deployment_id where d.name = 'internalize'"
        )
    finally:
        await connection.close()
    return [(row["name"], row["state"]) for row in rows]


def test_a_deployment_runs_on_a_server_that_keeps_its_states_in_postgresql(
    postgresql: str, corpus: Path, tmp_path: Path, model: str
) -> None:
    url = postgresql
    driver = url.replace("postgresql://", "postgresql+asyncpg://")
    lake = tmp_path / "lake"
    config = {
        "corpus": str(corpus),
        "lake": str(lake),
        "model": model,
        "engine": "prefect",
        "shards": "here",
        "decode": {"workers": 0},
    }
    with prefect_server(tmp_path, PREFECT_SERVER_DATABASE_CONNECTION_URL=driver) as server:
        server.video2lora("deploy", "--lake", str(lake), "--corpus", str(corpus))
        with server.worker("control", CONTROL_POOL):
            server.start_run("internalize", {"config": config})
            wait_for(
                "the run's end",
                lambda: asyncio.run(states(url)) == [("internalize", "COMPLETED")],
                seconds=600,
            )
        assert not list((tmp_path / "prefect").glob("*.db"))
    assert open_lake(lake).query("select * from adapters").num_rows == 5
