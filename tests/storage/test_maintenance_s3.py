"""Maintenance of a lake on S3, against a server on the loopback interface."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest

from storage.keeper import Keeper
from storage.lake import Lake, open_lake
from storage.remote import file_system


@pytest.fixture
def s3_lake() -> Iterator[Lake]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet) as server:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            options = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
            options["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
            file_system("s3://", options).mkdir("kept-lakes")
            yield open_lake("s3://kept-lakes/lake", create=True, storage_options=options)
        finally:
            server.terminate()


def test_a_lake_on_s3_is_compacted_cleaned_up_checked_and_deleted_from(s3_lake: Lake) -> None:
    for number in range(3):
        row = {"video_id": "v", "sequence": number, "is_deleted": True}
        s3_lake.append("tombstones", [row], transaction=("app", number))
    s3_lake.adapters.put(b"orphan")
    s3_lake.filesystem.call_s3("create_multipart_upload", Bucket="kept-lakes", Key="lake/x")
    keeper = Keeper(s3_lake)
    tables = {table.table: table for table in keeper.compact()}
    assert (tables["tombstones"].num_files, tables["tombstones"].num_files_after) == (3, 1)
    first = keeper.collect_garbage(grace=timedelta(seconds=-5))
    assert (first.num_moved, first.num_deleted, first.num_uploads) == (1, 0, 1)
    second = keeper.collect_garbage(grace=timedelta(seconds=-5))
    assert (second.num_moved, second.num_deleted, second.num_uploads) == (0, 1, 0)
    assert s3_lake.query("select count(*) as n from raw.tombstones").to_pylist() == [{"n": 3}]
    assert s3_lake.catalog.committed("tombstones", "app") == 2
    assert keeper.delete_video("a" * 64).is_new
    assert keeper.verify().faults == []
