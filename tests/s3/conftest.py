"""One moto server for the fast tests; the tiny random model and videos of the pipeline's tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import Lake, open_lake
from storage.remote import file_system
from tasks.summary import RunSummary
from tests.pipeline.conftest import model, model_dir, shelf  # noqa: F401  (fixtures)
from tests.s3.faulty_proxy import FaultyProxy, faulty_proxy
from tests.s3.servers import BUCKET, Server, environment, moto

Run = Callable[..., RunSummary]


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with moto() as running:
        yield running


@pytest.fixture(scope="session")
def proxy(server: Server) -> Iterator[FaultyProxy]:
    """A proxy before moto; `quiet_proxy` gives it without a plan."""
    with faulty_proxy(server.endpoint) as running:
        yield running


@pytest.fixture
def quiet_proxy(proxy: FaultyProxy) -> Iterator[FaultyProxy]:
    proxy.reset()
    yield proxy
    proxy.reset()


@pytest.fixture
def root(request: pytest.FixtureRequest) -> str:
    """A prefix of this test's own."""
    return f"s3://{BUCKET}/{request.node.name.partition('[')[0][:60]}"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Point the environment at an endpoint, as a user would."""

    def point(endpoint: str, **changed: str) -> dict[str, str]:
        names = environment(endpoint, **changed)
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        return names

    return point


@pytest.fixture
def direct(server: Server, use: Any) -> dict[str, str]:
    """The environment leads to moto."""
    return use(server.endpoint)


@pytest.fixture
def videos(server: Server, root: str, shelf: Any) -> str:  # noqa: F811
    """Two good videos and a bad one under s3://."""
    corpus = f"{root}/videos"
    files = file_system(corpus, environment(server.endpoint))
    for path in sorted(shelf.iterdir()):
        files.pipe_file(f"{corpus}/{path.name}", path.read_bytes())
    files.pipe_file(f"{corpus}/bad.mp4", b"this is no video")
    return corpus


@pytest.fixture
def run(root: str, videos: str, model: str) -> Run:  # noqa: F811
    """Internalize the s3 corpus into the s3 lake of this test, with the local engine."""

    def internalize(**changed: Any) -> RunSummary:
        values = {"corpus": videos, "lake": f"{root}/lake", "model": model, "unit_segments": 2}
        return internalize_corpus(InternalizeConfig(**{**values, **changed}), LocalEngine())

    return internalize


@pytest.fixture
def lake_of(server: Server, root: str) -> Callable[[], Lake]:
    """Open this test's lake past the proxy."""
    return lambda: open_lake(f"{root}/lake", storage_options=environment(server.endpoint))
