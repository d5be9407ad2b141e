"""What must hold of a lake on S3 whatever happened to the run."""

from storage.identity import sha256_hex
from storage.lake import Lake
from tests.s3.servers import BUCKET

_COUNTS = """
select
    (select count(*) from adapters_latest) as adapters,
    (select count(distinct adapter_key) from adapters_latest) as keys,
    (select count(*) from segments) as segments,
    (select count(distinct (video_id, start_us)) from segments) as spans,
    (select count(*) from runs where event = 'unit') as units,
    (select count(distinct (run_id, shard, unit)) from runs where event = 'unit') as units_once,
    (select count(*) from runs where event = 'published') as published,
    (select count(distinct run_id) from runs where event = 'published') as runs_published
"""


def check_whole(lake: Lake, *, num_segments: int) -> None:
    """Every segment once in the views, every row's file there and whole, no file torn."""
    (counted,) = lake.query(_COUNTS).to_pylist()
    assert counted == {
        "adapters": num_segments,
        "keys": num_segments,
        "segments": num_segments,
        "spans": num_segments,
        "units": counted["units_once"],
        "units_once": counted["units_once"],
        "published": counted["runs_published"],
        "runs_published": counted["runs_published"],
    }
    named = set(lake.table("adapters")["adapter_sha256"].to_pylist())
    for sha256 in named:
        assert sha256_hex(lake.adapters.get(sha256)) == sha256
    for name in lake._objects.names("adapters"):
        found = sha256_hex(lake._objects.read(name))
        assert name.endswith(f"{found}.safetensors"), f"{BUCKET}: {name} is torn"
