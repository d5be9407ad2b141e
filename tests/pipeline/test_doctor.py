"""The doctor finds faults that are planted for real, and names what helps."""

import json
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from configs.load import MODELS_DIR
from storage.lake import open_lake
from tasks.doctor import decoders, examine, lake, machine, model, prefect_server, versions
from tasks.doctor.finding import Finding, Patient
from tests.s3.servers import environment, free_port

Call = Callable[..., tuple[int, str, str]]


def faults(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings if finding.state == "fault"}


def the_fault(findings: Iterator[Finding], check: str) -> Finding:
    found = faults(findings)
    assert list(found) == [check]
    assert found[check].meaning
    assert found[check].fix
    return found[check]


@pytest.fixture
def own_model(tmp_path: Path) -> Path:
    """The embedded default, to be damaged."""
    shutil.copytree(MODELS_DIR / "tiny", tmp_path / "tiny")
    return Path(shutil.copy(MODELS_DIR / "tiny.yaml", tmp_path / "tiny.yaml"))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_whole_model_is_well(own_model: Path) -> None:
    found = list(model.check_model(Patient(model=str(own_model))))
    assert [finding.state for finding in found] == ["ok", "ok"]


def test_one_flipped_bit_in_the_models_weights_is_found(own_model: Path) -> None:
    flip_last_byte(own_model.parent / "tiny" / "vlm" / "model.safetensors")
    fault = the_fault(model.check_model(Patient(model=str(own_model))), "weights for checkpoint")
    assert "altered" in fault.meaning
    assert "copy the model's files again" in fault.fix


def test_missing_weights_are_found(own_model: Path) -> None:
    (own_model.parent / "tiny" / "vlm" / "model.safetensors").unlink()
    fault = the_fault(model.check_model(Patient(model=str(own_model))), "model weights")
    assert "model*.safetensors" in fault.found


def test_a_flipped_bit_in_the_checkpoint_is_found(own_model: Path) -> None:
    flip_last_byte(own_model.parent / "tiny" / "hypernetwork" / "hypernetwork.safetensors")
    fault = the_fault(model.check_model(Patient(model=str(own_model))), "checkpoint")
    assert "truncated or altered" in fault.found
    assert "copy the checkpoint again" in fault.fix


def test_a_missing_checkpoint_is_found_and_where_to_get_a_released_one() -> None:
    found = faults(model.check_model(Patient(model="smolvlm2-500m")))
    assert "hf download" in found["model weights"].fix
    assert "video2lora import-checkpoint" in found["checkpoint"].fix


def test_a_model_config_that_does_not_exist_is_found(tmp_path: Path) -> None:
    fault = the_fault(model.check_model(Patient(model=str(tmp_path / "no.yaml"))), "model config")
    assert "no such model config" in fault.found


def test_a_lake_made_with_another_checkpoint_is_a_warning(
    own_model: Path, tmp_path: Path, run: Any
) -> None:
    run()
    found = list(model.check_model(Patient(model=str(own_model), lake=str(tmp_path / "lake"))))
    assert [(f.check, f.state) for f in found if f.state != "ok"] == [
        ("lake's checkpoint", "warning")
    ]
    assert "backfill" in found[-1].fix


def test_a_lake_that_can_be_written_is_well_and_keeps_nothing(tmp_path: Path) -> None:
    root = tmp_path / "lake"
    open_lake(root, create=True)
    before = sorted(root.rglob("*"))
    assert faults(lake.check_lake(Patient(lake=str(root)))) == {}
    assert sorted(root.rglob("*")) == before
    assert faults(lake.check_lake(Patient(lake=str(tmp_path / "new" / "lake")))) == {}
    assert not (tmp_path / "new").exists()


def test_a_lake_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file where a directory should be")
    found = faults(lake.check_lake(Patient(lake=str(tmp_path / "lake"))))
    assert "--lake" in found["lake's writing"].fix


def test_a_prefect_api_that_nobody_answers_is_found() -> None:
    api = f"http://127.0.0.1:{free_port()}/api"
    found = prefect_server.check_prefect_server(Patient(prefect_api=api))
    fault = the_fault(found, "prefect server")
    assert "does not answer" in fault.found
    assert "prefect server start" in fault.fix


@contextmanager
def serving(status: int, body: str, **headers: str) -> Iterator[str]:
    """A server that gives everybody the same answer."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (200, '"3.8.8"', "ok", "version 3.8.8"),
        (200, '"2.20.1"', "warning", "version 2.20.1"),
        (401, "{}", "fault", "answers 401"),
        (200, "<html>", "fault", "does not answer"),
    ],
)
def test_what_answers_as_prefect_is_looked_at(
    status: int, body: str, state: str, said: str
) -> None:
    with serving(status, body) as url:
        (found,) = prefect_server.check_prefect_server(Patient(prefect_api=f"{url}/api"))
    assert (found.state, said in found.found) == (state, True)


@pytest.mark.parametrize(
    ("package", "version", "fix"),
    [
        ("sqlalchemy", "2.1.0", "sqlalchemy<2.1"),
        ("fastapi", "0.156.1", "fastapi<0.151"),
        ("av", "17.0.0", "av>=18,<20"),
        ("av", "20.0.0", "av>=18,<20"),
    ],
)
def test_versions_that_do_not_work_together_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, version: str, fix: str
) -> None:
    info = tmp_path / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
    assert faults(versions.check_versions(Patient())) == {}
    monkeypatch.syspath_prepend(tmp_path)
    fault = the_fault(versions.check_versions(Patient()), package)
    assert fix in fault.fix


def test_a_decoder_that_cannot_be_imported_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    fault = the_fault(decoders.check_decoders(Patient()), "decoder pyav")
    assert "pip install" in fault.fix


def test_decord_is_missed_only_by_who_uses_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert decoders._decord(tmp_path, is_needed=False).state == "ok"
    assert decoders._decord(tmp_path, is_needed=True).state == "fault"


def test_a_decoder_that_gives_wrong_frames_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "doctor.mp4"
    decoders.write_probe_video(path)
    assert decoders._tried("pyav", path, fix="").state == "ok"
    monkeypatch.setattr(decoders, "_LEVELS", (200, 40))  # what is expected, not what is in it
    found = decoders._tried("pyav", path, fix="use another")
    assert (found.state, found.meaning) == ("fault", "it gives wrong frames")


def test_too_little_room_on_the_disks_is_found(tmp_path: Path) -> None:
    patient = Patient(lake=str(tmp_path / "lake"), min_free_bytes=10**18)
    found = faults(machine.check_machine(patient))
    assert set(found) == {"scratch disk", "lake's disk"}
    assert "TMPDIR" in found["scratch disk"].fix
    assert "gc" in found["lake's disk"].fix


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def test_low_limits_of_the_system_are_found() -> None:
    with limited(resource.RLIMIT_NOFILE, 128):
        fault = the_fault(machine.check_machine(Patient(min_free_bytes=0)), "open files")
    assert "ulimit -n" in fault.fix
    with limited(resource.RLIMIT_AS, 9 * 1024**3):
        fault = the_fault(machine.check_machine(Patient(min_free_bytes=0)), "address space")
    assert fault.fix == "ulimit -v unlimited"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def point(endpoint: str, **changed: str) -> None:
        for name, value in environment(endpoint, **changed).items():
            monkeypatch.setenv(name, value)

    return point


def test_an_s3_endpoint_that_is_down_is_found_at_once(aws: Any) -> None:
    aws(f"http://127.0.0.1:{free_port()}")
    fault = the_fault(lake.check_lake(Patient(lake="s3://video-lakes/lake")), "S3 endpoint")
    assert "AWS_ENDPOINT_URL" in fault.fix


def test_missing_s3_credentials_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    fault = the_fault(lake.check_lake(Patient(lake="s3://video-lakes/lake")), "S3 credentials")
    assert "AWS_ACCESS_KEY_ID" in fault.fix


def test_a_clock_that_is_wrong_is_found(aws: Any) -> None:
    with serving(403, "", Date=formatdate(1_700_000_000, usegmt=True)) as url:
        aws(url)
        found = {finding.check: finding for finding in lake._endpoint()}
    assert found["S3 endpoint"].state == "ok"
    assert found["clock"].state == "fault"
    assert "timedatectl" in found["clock"].fix
    assert [lake._clock(skew).state for skew in (0.0, -90.0, 700.0)] == ["ok", "warning", "fault"]


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "CHECKS", ("versions", "nothing", "prefect_server"))
    found = list(examine.examine(Patient()))
    assert found[-1].check == "prefect server"
    assert [f.check for f in found if f.state == "fault"] == ["nothing"]


def test_the_command_ends_with_1_where_there_is_a_fault(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examine, "CHECKS", ("versions", "prefect_server"))
    code, out, _ = call("doctor", "--json")
    assert (code, json.loads(out)["is_well"]) == (0, True)
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    code, out, _ = call("doctor")
    assert code == 1
    assert "fix:   prefect server start" in out
    assert out.splitlines()[-1].endswith("0 warnings, 1 faults")
    code, out, _ = call("doctor", "--json")
    assert (code, json.loads(out)["is_well"]) == (1, False)


@pytest.mark.slow
def test_a_real_call_examines_everything_and_finds_a_low_limit() -> None:
    code = "import sys; sys.argv[0] = 'video2lora'; from flows.cli import main; main()"
    command = f'ulimit -n 200; exec "{sys.executable}" -c "{code}" doctor --json --min-free-gb 0'
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False
    )
    document = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    found = {finding["check"]: finding["state"] for finding in document["findings"]}
    assert [check for check, state in found.items() if state == "fault"] == ["open files"]
    assert {"python", "devices", "decoder pyav", "decoding child", "checkpoint"} <= found.keys()
