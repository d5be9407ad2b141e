"""A store that is busy, breaks connections and loses answers: nothing is lost, nothing is twice."""

from collections.abc import Callable
from typing import Any

import pytest

from storage.errors import ObjectError, StorageError
from storage.lake import Lake, open_lake
from storage.remote import file_system
from storage.s3_objects import S3ObjectStore
from tests.s3.checks import check_whole
from tests.s3.faulty_proxy import FAULTS, FaultyProxy, at_random, once
from tests.s3.servers import BUCKET, Server, environment

NUM_SEGMENTS = 5
TOMBSTONE = {"video_id": "v", "sequence": 1, "is_deleted": False}
AFTER = ("lost", "500-after")


@pytest.fixture
def objects(quiet_proxy: FaultyProxy, root: str) -> S3ObjectStore:
    store = S3ObjectStore(root, file_system(root, environment(quiet_proxy.endpoint)))
    store.require_conditional_create()
    return store


@pytest.fixture(scope="module")
def shared_lake(proxy: FaultyProxy) -> Lake:
    proxy.reset()
    root = f"s3://{BUCKET}/shared"
    return open_lake(root, create=True, storage_options=environment(proxy.endpoint))


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_of_each_kind_is_borne_by_each_operation(
    fault: str, objects: S3ObjectStore, quiet_proxy: FaultyProxy
) -> None:
    def under(method: str, part: str, call: Callable[[], Any]) -> Any:
        quiet_proxy.reset()
        quiet_proxy.plan = once(fault, method, part)
        answer = call()
        assert quiet_proxy.faults()[fault] == 1, "the fault was forced"
        return answer

    name = f"{fault}.bin"
    assert under("PUT", name, lambda: objects.create(name, b"0123456789")) is True
    assert under("GET", name, lambda: objects.read(name)) == b"0123456789"
    assert under("HEAD", name, lambda: objects.exists(name)) is True
    assert name in under("GET", "list-type", lambda: list(objects.names("")))
    under("PUT", name, lambda: objects.refresh(name, b"0123456789"))
    under("DELETE", name, lambda: objects.delete(name))
    assert not objects.exists(name)


@pytest.mark.parametrize("fault", AFTER)
def test_a_put_whose_answer_is_lost_knows_itself_and_a_rivals_put_stays_a_rivals(
    fault: str, shared_lake: Lake, objects: S3ObjectStore, quiet_proxy: FaultyProxy
) -> None:
    quiet_proxy.plan = once(fault, "PUT", "published/")
    assert shared_lake.mark_published(f"run-{fault}", {"attempt_id": "a"})
    quiet_proxy.plan = once(fault, "PUT", "published/")
    assert not shared_lake.mark_published(f"run-{fault}", {"attempt_id": "a"})
    assert quiet_proxy.faults()[fault] == 2


@pytest.mark.parametrize("fault", AFTER)
def test_the_probe_does_not_take_a_lost_answer_for_a_careless_store(
    fault: str, root: str, quiet_proxy: FaultyProxy
) -> None:
    quiet_proxy.plan = once(fault, "PUT", ".probe-")
    objects = S3ObjectStore(root, file_system(root, environment(quiet_proxy.endpoint)))
    objects.require_conditional_create()
    assert quiet_proxy.faults()[fault] == 1


@pytest.mark.parametrize("transaction", [("app", 0), None])
@pytest.mark.parametrize("fault", ["reset", *AFTER])
def test_a_commit_whose_answer_is_lost_is_found_again_and_not_repeated(
    fault: str, transaction: Any, shared_lake: Lake, quiet_proxy: FaultyProxy
) -> None:
    named = (f"{fault}-{transaction[0]}", transaction[1]) if transaction else None
    row = {**TOMBSTONE, "video_id": f"{fault}-{transaction}"}
    quiet_proxy.plan = once(fault, "PUT", "tombstones/_delta_log/0")
    done = shared_lake.append("tombstones", [row], transaction=named)
    # Whose commit holds the number cannot be told; that it is there, once, can.
    assert done or (named and fault in AFTER)
    assert quiet_proxy.faults()[fault] == 1
    videos = shared_lake.table("tombstones")["video_id"].to_pylist()
    assert videos.count(row["video_id"]) == 1
    if named:
        assert not shared_lake.append("tombstones", [row], transaction=named)


def test_a_store_that_stays_broken_is_given_up_with_one_line(
    objects: S3ObjectStore, quiet_proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in ("503", "cut"):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # the default tries for longer than a test may
        files = file_system("s3://", environment(quiet_proxy.endpoint))
        hurried = S3ObjectStore(f"s3://{BUCKET}/broken", files)
        quiet_proxy.plan = lambda _, fault=fault: fault
        with pytest.raises(ObjectError) as failed:
            hurried.read("a.bin")
        assert "\n" not in str(failed.value)
        assert "cannot read it" in str(failed.value)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rate"), [(1, 0.1), (2, 0.1)])
def test_a_run_through_a_broken_network_ends_complete_or_with_an_error_and_a_rerun_completes(
    seed: int,
    rate: float,
    run: Callable[..., Any],
    lake_of: Callable[[], Lake],
    use: Any,
    quiet_proxy: FaultyProxy,
    server: Server,
) -> None:
    use(quiet_proxy.endpoint)
    quiet_proxy.plan = at_random(seed, rate=rate)
    errors = []
    for _ in range(4):
        try:
            run(corpus_name=f"seed {seed}")
            break
        except StorageError as error:
            errors.append(str(error))
    assert sum(quiet_proxy.faults().values()) >= 5
    assert all("\n" not in error for error in errors)
    use(server.endpoint)
    run(corpus_name=f"seed {seed}")
    check_whole(lake_of(), num_segments=NUM_SEGMENTS)
