"""What must hold of a lake on S3 whatever happened to the run."""

from storage.identity import sha256_hex
from storage.lake import Lake
from tests.s3.servers import BUCKET


def check_whole(lake: Lake, *, num_segments: int) -> None:
    """Every segment once in the views, every row's file there and whole, no file torn."""
    once = "select count(*) as n, count(distinct adapter_key) as keys from adapters_latest"
    assert lake.query(once).to_pylist() == [{"n": num_segments, "keys": num_segments}]
    segments = "select count(*) as n, count(distinct (video_id, start_us)) as spans from segments"
    assert lake.query(segments).to_pylist() == [{"n": num_segments, "spans": num_segments}]
    named = set(lake.table("adapters")["adapter_sha256"].to_pylist())
    for sha256 in named:
        assert sha256_hex(lake.adapters.get(sha256)) == sha256
    for name in lake._objects.names("adapters"):
        found = sha256_hex(lake._objects.read(name))
        assert name.endswith(f"{found}.safetensors"), f"{BUCKET}: {name} is torn"
    check_units_once(lake)


def check_units_once(lake: Lake) -> None:
    units = "select count(*) as n, count(distinct (run_id, shard, unit)) as units from runs"
    (row,) = lake.query(f"{units} where event = 'unit'").to_pylist()
    assert row["n"] == row["units"]
    events = "select max(n) as most from (select count(*) as n from runs where event = 'published'"
    assert lake.query(f"{events} group by run_id)").to_pylist()[0]["most"] in (None, 1)
