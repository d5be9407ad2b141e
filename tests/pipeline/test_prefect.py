"""The same flow through Prefect, with a server of its own; and a deployment that it accepts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.schema import InternalizeConfig
from flows import prefect_settings
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
from flows.run import run_internalize
from storage.errors import LakeError
from storage.lake import open_lake
from tasks.plan_run import plan_run

START_S = 300


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=START_S):
        yield PREFECT_API_URL.value()


@pytest.mark.slow
@pytest.mark.prefect
def test_prefect_runs_the_same_steps_and_records_them(
    prefect_api: str, corpus: Path, tmp_path: Path, model: str
) -> None:
    config = InternalizeConfig(
        corpus=str(corpus), lake=str(tmp_path / "lake"), model=model, engine="prefect"
    )
    summary = run_internalize(config)
    assert (summary.engine, summary.shards.num_segments) == ("prefect", 5)
    assert open_lake(tmp_path / "lake").query("select * from adapters").num_rows == 5
    again = run_internalize(config)
    assert (again.shards.num_files_decoded, again.shards.num_segments) == (0, 0)
    assert progress_of(summary.plan.run_id) == [100.0]


def progress_of(run_id: str) -> list[float]:
    """List what the artifacts of a run's shards say, in percent."""
    from prefect import get_client

    with get_client(sync_client=True) as client:
        found = client.read_artifacts()
    return [each.data for each in found if each.key.startswith(f"shard-{run_id[:12]}-")]


@pytest.mark.prefect
@pytest.mark.slow
def test_maintenance_runs_through_prefect_as_it_does_without(
    prefect_api: str, corpus: Path, tmp_path: Path, model: str
) -> None:
    from flows.prefect_maintenance import compact_flow, delete_flow, gc_flow, verify_flow

    root = str(tmp_path / "lake")
    (corpus / "bad.mp4").write_text("no video")
    values = {"lake": root, "model": model, "engine": "prefect"}
    run_internalize(InternalizeConfig(corpus=str(corpus), **values))
    retried = run_internalize(
        InternalizeConfig(corpus="catalog:rejects", retry_reasons=("NOT_MEDIA",), **values)
    )
    assert (retried.plan.num_sources, retried.shards.num_rejects) == (1, 1)
    assert verify_flow(root).rows == []
    compact_flow(root)
    delete_flow(root, video="short.mp4", reason="asked to")
    gc_flow(root)
    assert verify_flow(root).rows == []
    rows = open_lake(root).query("select adapter_sha256 from adapters")["adapter_sha256"]
    assert len(rows) == 3
    Path(open_lake(root).adapters.uri(rows[0].as_py())).write_bytes(b"something else")
    with pytest.raises(LakeError, match="1 faults, the first in"):
        verify_flow(root)


@pytest.mark.slow
@pytest.mark.prefect
def test_questions_are_answered_through_prefect_as_without(
    prefect_api: str, corpus: Path, tmp_path: Path, model: str
) -> None:
    from flows.answer_questions import run_answers
    from tests.pipeline.answer_sets import answer_config, write_set

    rows = [{"video": str(corpus / "short.mp4"), "question": f"What {n}?"} for n in range(3)]
    questions = write_set(tmp_path / "questions.jsonl", rows)
    root = tmp_path / "lake"
    open_lake(root, create=True)
    config = answer_config(questions, root, model, engine="prefect", internalize_missing=True)
    done = run_answers(config)
    assert (done.engine, done.num_internalized, done.found.num_answers) == ("prefect", 1, 3)
    again = run_answers(config.model_copy(update={"engine": "local"}))
    assert (again.shards.num_answered, again.found) == (0, done.found)


@pytest.mark.slow
@pytest.mark.prefect
def test_a_run_is_announced_by_whoever_published_it_and_nobody_else(
    prefect_api: str, corpus: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import prefect_events
    from flows.prefect_reconcile import reconcile_flow

    emitted: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(
        prefect_events,
        "emit_event",
        lambda event, *, resource, payload: emitted.append((event, {**resource, **payload})),
    )
    lake = str(tmp_path / "lake")
    values = {"corpus": str(corpus), "lake": lake, "model": model, "engine": "prefect"}
    config = InternalizeConfig(**values, decode={"workers": 0})
    run_internalize(config)
    [(event, said)] = emitted
    assert event == "video2lora.catalog.published"
    assert said["prefect.resource.id"] == f"video2lora.lake.{lake}"
    assert (said["lake"], said["num_adapters"], said["num_rejects"]) == (lake, 5, 0)
    run_internalize(config)
    # A run whose process died between its last shard and publishing.
    other = config.model_copy(update={"stored_dtype": "float32"})
    plan = plan_run(other, attempt_id="a")
    place = {"run_id": plan.run_id, "shard": 0, "attempt_id": "a"}
    internalize_shard(other, LocalEngine(), **place)
    assert [found.outcome for found in reconcile_flow(lake)] == ["published"]
    assert reconcile_flow(lake) == []
    assert [said["run_id"] for _, said in emitted[1:]] == [plan.run_id]


def test_the_local_engine_imports_no_prefect() -> None:
    code = "import sys, flows.run, flows.api; print('prefect' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "False"


def test_a_configured_api_is_found_in_the_environment_or_the_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert not prefect_settings.is_api_configured()
    (tmp_path / "profiles.toml").write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://127.0.0.1:4200/api"\n'
    )
    assert prefect_settings.is_api_configured()
    (tmp_path / "profiles.toml").write_text('active = "other"\n[profiles.team]\n')
    assert not prefect_settings.is_api_configured()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    assert prefect_settings.is_api_configured()


def test_a_private_home_leaves_the_users_prefect_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"PREFECT_API_URL": "http://somewhere/api"})
    prefect_settings.apply(home=tmp_path / "home")
    assert "PREFECT_API_URL" not in os.environ
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "home")
