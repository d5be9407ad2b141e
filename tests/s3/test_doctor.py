"""The doctor at a real S3 server: a good lake, a missing bucket, keys that it does not know."""

import urllib.request
from collections.abc import Callable, Iterator

import pytest

from storage.remote import file_system
from tasks.doctor.finding import Finding, Patient
from tasks.doctor.lake import check_lake
from tests.s3.servers import ACCESS_KEY, BUCKET, SECRET_KEY, Server, environment, moto

Use = Callable[..., dict[str, str]]


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """A server that asks for keys it knows: those of no request that a test makes."""
    with moto() as server:
        request = urllib.request.Request(f"{server.endpoint}/moto-api/reset-auth", data=b"0")
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request, timeout=10).close()
        yield server


def looked_at(lake: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_lake(Patient(lake=lake))}


def test_a_lake_on_s3_is_well_and_keeps_nothing(direct: dict[str, str], root: str) -> None:
    found = looked_at(f"{root}/lake")
    assert {finding.state for finding in found.values()} == {"ok"}
    assert set(found) == {"S3 credentials", "S3 endpoint", "clock", "lake", "lake's writing"}
    assert file_system(root, direct).find(f"{root}/lake") == []


def test_a_bucket_that_does_not_exist_is_found(direct: dict[str, str]) -> None:
    found = looked_at("s3://no-such-place/lake")
    broken = [finding for finding in found.values() if finding.state == "fault"]
    assert [finding.fix for finding in broken] == ["aws s3 mb s3://no-such-place"]


def test_wrong_keys_are_found_and_not_shown(strict: Server, use: Use) -> None:
    use(strict.endpoint)
    found = looked_at(f"s3://{BUCKET}/lake")
    assert found["S3 credentials"].state == "ok"
    fault = found["lake"]
    assert fault.state == "fault"
    assert "AWS_SECRET_ACCESS_KEY" in fault.fix
    for secret in (ACCESS_KEY, SECRET_KEY, environment(strict.endpoint)["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in f"{fault.found}{fault.fix}"
