"""prefect.yaml, Dockerfile, compose file and Kubernetes template hold together without a server."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.answer_schema import AnswerConfig
from configs.evaluate_schema import EvaluateConfig
from configs.schema import InternalizeConfig
from flows.deploy import Settings, filled
from flows.device_workers import CONTROL_POOL, DEVICE_POOL
from storage.errors import StorageError
from tests.pipeline.conftest import Call
from video2lora_core.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(
    lake="s3://team/lake",
    corpus="footage",
    model="tiny",
    questions="questions.jsonl",
    is_scheduled=False,
)
CONFIGS = {
    "internalize": InternalizeConfig,
    "answer": AnswerConfig,
    "evaluate": EvaluateConfig,
}


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return yaml.safe_load(filled(ROOT / "prefect.yaml", SETTINGS))


@pytest.fixture(scope="module")
def named(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {deployment["name"]: deployment for deployment in content["deployments"]}


def flow_of(entrypoint: str) -> ast.FunctionDef:
    module, _, name = entrypoint.rpartition(".")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)


def test_every_deployment_is_there_with_a_flow_that_takes_its_parameters(
    named: dict[str, dict[str, Any]],
) -> None:
    assert set(named) == {
        *("internalize", "shard", "answer", "evaluate"),
        *("compact", "gc", "verify", "reconcile"),
    }
    for deployment in named.values():
        flow = flow_of(deployment["entrypoint"])
        taken = {argument.arg for argument in [*flow.args.args, *flow.args.kwonlyargs]}
        assert set(deployment.get("parameters", {})) <= taken, deployment["name"]


def test_the_parameters_of_every_deployment_fit_their_schema(
    named: dict[str, dict[str, Any]],
) -> None:
    for name, schema in CONFIGS.items():
        config = schema.model_validate(named[name]["parameters"]["config"])
        assert config.lake == "s3://team/lake"
    [trigger] = named["answer"]["triggers"]
    AnswerConfig.model_validate(trigger["parameters"]["config"])
    assert trigger["expect"] == ["video2lora.catalog.published"]


def test_shards_have_the_device_pool_and_parents_another_that_never_waits_for_one(
    named: dict[str, dict[str, Any]],
) -> None:
    pools = {name: deployment["work_pool"]["name"] for name, deployment in named.items()}
    on_devices = {name for name, pool in pools.items() if pool == DEVICE_POOL}
    assert on_devices == {"shard", "answer", "evaluate"}
    assert set(pools.values()) == {DEVICE_POOL, CONTROL_POOL}
    assert "schedules" not in named["shard"]
    assert "CUDA_VISIBLE_DEVICES" not in (ROOT / "prefect.yaml").read_text(encoding="utf-8")


def test_only_reconcile_is_scheduled_until_somebody_asks_for_more(content: dict[str, Any]) -> None:
    def active(found: dict[str, Any]) -> set[str]:
        return {
            deployment["name"]
            for deployment in found["deployments"]
            if any(schedule["active"] for schedule in deployment.get("schedules", []))
        }

    assert active(content) == {"reconcile"}
    every = Settings(lake="l", corpus="c", model="tiny", questions=None, is_scheduled=True)
    switched_on = yaml.safe_load(filled(ROOT / "prefect.yaml", every))
    assert active(switched_on) == {d["name"] for d in content["deployments"]} - {"shard"}
    [trigger] = next(d["triggers"] for d in switched_on["deployments"] if d["name"] == "answer")
    assert trigger["enabled"] is False  # there are no questions


def test_local_paths_become_absolute_and_credentials_are_refused(
    content: dict[str, Any], tmp_path: Path
) -> None:
    assert content["definitions"]["corpus"] == str(Path.cwd() / "footage")
    secret = Settings(
        lake="s3://key:secret@team/lake",
        corpus="c",
        model="tiny",
        questions=None,
        is_scheduled=False,
    )
    with pytest.raises(StorageError, match="credentials"):
        filled(ROOT / "prefect.yaml", secret)
    with pytest.raises(UsageError, match="give --file"):
        filled(tmp_path / "prefect.yaml", SETTINGS)


def test_without_a_server_deploying_and_working_say_what_is_missing(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.prefect_settings.is_api_configured", lambda: False)
    code, _, error = call("deploy", "--lake", "lake", "--corpus", "videos")
    assert (code, "PREFECT_API_URL is not set" in error) == (1, True)
    code, _, error = call("worker", "--devices", "cpu")
    assert (code, "PREFECT_API_URL is not set" in error) == (1, True)
    shown = call("deploy", "--lake", "lake", "--corpus", "videos", "--print")[1]
    assert yaml.safe_load(shown)["definitions"]["lake"] == str(Path.cwd() / "lake")


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_takes_its_base_as_an_argument_and_does_not_run_as_root(dockerfile: str) -> None:
    steps = re.findall(r"^([A-Z]+) (.*)$", dockerfile, re.MULTILINE)
    assert steps[0][0] == "ARG"
    assert steps[0][1].startswith("BASE=")
    assert ("FROM", "${BASE}") in steps
    [user] = [rest for name, rest in steps if name == "USER"]
    assert user not in ("root", "0")
    assert not re.search(r"(?i)(secret|password|aws_|token)", dockerfile)


def test_the_image_copies_what_exists(dockerfile: str) -> None:
    for line in re.findall(r"^COPY (?:--\S+ )*(.*) \S+$", dockerfile, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source


def test_the_compose_file_has_a_server_with_postgresql_and_workers() -> None:
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))[
        "services"
    ]
    assert set(services) == {"postgres", "server", "control", "device"}
    assert int(re.match(r"postgres:(\d+)", services["postgres"]["image"])[1]) >= 15
    url = services["server"]["environment"]["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    assert url.startswith("postgresql+asyncpg://")
    assert "${POSTGRES_PASSWORD:?" in url  # it must be given, and stands in no file
    for name, pool in (("control", CONTROL_POOL), ("device", DEVICE_POOL)):
        assert pool in services[name]["command"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_kubernetes_template_names_only_variables_that_it_declares() -> None:
    text = (ROOT / "deploy/kubernetes/base-job-template.json").read_text(encoding="utf-8")
    template = json.loads(text)
    declared = set(template["variables"]["properties"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", text))
    assert used == declared
    manifest = template["job_configuration"]["job_manifest"]
    pod = manifest["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert (manifest["kind"], manifest["apiVersion"]) == ("Job", "batch/v1")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"
    assert container["envFrom"] == [{"secretRef": {"name": "{{ s3_secret }}"}}]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert manifest["spec"]["backoffLimit"] == 0  # `reconcile` submits again, with a new attempt


def test_the_kubernetes_worker_and_its_rights_parse() -> None:
    text = (ROOT / "deploy/kubernetes/worker.yaml").read_text(encoding="utf-8")
    documents = list(yaml.safe_load_all(text))
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"ServiceAccount", "Role", "RoleBinding", "Deployment"}
    [container] = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert DEVICE_POOL in container["args"]
