"""The same work gives the same plan, whoever plans it, and a shard reads only its own rows."""

import io
import itertools
import random
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ObjectError, ObjectMissingError
from storage.lake import Lake
from storage.manifest import Source
from storage.object_store import LocalObjectStore
from storage.plans import PlannedSource, Retry, get_plan, pack, plan_sources, write_plan


def planned(names: list[str], cost: float = 1.0) -> list[PlannedSource]:
    items = [PlannedSource(source=Source(uri=f"/{name}.mp4"), cost=cost) for name in names]
    return sorted(items, key=lambda item: item.source.source_id)


def test_a_plan_is_the_same_whenever_it_is_written(tmp_path: Path) -> None:
    names = [f"v{i}" for i in range(20)]
    first, second = (
        write_plan(tmp_path / f"{i}", planned(list(order)), recipe_id="r", shard_cost=3)
        for i, order in enumerate((names, names[::-1]))
    )
    assert first == second
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()


@pytest.mark.parametrize(
    "changed", [{"recipe_id": "s"}, {"shard_cost": 2}, {"retry": Retry()}, {"names": ["v", "w"]}]
)
def test_whatever_a_plan_says_is_in_its_run_id(tmp_path: Path, changed: dict[str, Any]) -> None:
    def run_id(**values: Any) -> str:
        names = values.pop("names")
        return write_plan(tmp_path / "plan", planned(names), **values).run_id

    values: dict[str, Any] = {"names": ["v", "w", "x"], "recipe_id": "r", "shard_cost": 1}
    assert run_id(**values) != run_id(**{**values, **changed})


@given(
    st.lists(st.text(alphabet="abcdef", min_size=1, max_size=3), unique=True, max_size=30),
    st.floats(0.1, 5),
    st.floats(1, 9),
)
def test_every_source_is_in_one_shard_and_shards_are_filled_in_order(
    names: list[str], cost: float, shard_cost: float
) -> None:
    packed = list(pack(names, cost=lambda _: cost, shard_cost=shard_cost))
    assert [name for _, name in packed] == names
    shards = [shard for shard, _ in packed]
    assert shards == sorted(shards)
    assert sorted(set(shards)) == list(range(len(set(shards))))
    full = [shards.count(shard) * cost for shard in sorted(set(shards))[:-1]]
    assert all(shard_cost <= total + 1e-9 < shard_cost + cost + 1e-6 for total in full)


def test_the_shards_of_a_stored_plan_tile_it(lake: Lake) -> None:
    items = planned([f"v{i}" for i in range(5000)])
    plan = lake.new_plan(items, recipe_id="r", shard_cost=7)
    assert (plan.header.num_sources, plan.header.num_shards) == (5000, 715)
    stored = lake.get_plan(plan.run_id)
    found = [plan_sources(stored, shard) for shard in (0, 146, 147, 714)]
    assert [len(sources) for sources in found] == [7, 7, 7, 2]
    uris = [item.source.uri for item in items]
    assert [source.uri for source in found[1] + found[2]] == uris[1022:1036]
    assert list(itertools.chain(found[0], found[3])) == [
        *(item.source for item in items[:7]),
        *(item.source for item in items[-2:]),
    ]


class CountedFile(io.BufferedReader):
    """Tells its store how many bytes are read."""

    def __init__(self, path: Path, store: "CountingStore") -> None:
        super().__init__(io.FileIO(path))
        self._store = store

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._store.num_bytes += len(data)
        return data


class CountingStore(LocalObjectStore):
    """Counts the bytes that are read of opened files."""

    num_bytes = 0

    def open(self, name: str) -> BinaryIO:
        return CountedFile(self._root / name, self)


def test_a_shard_reads_its_own_rows_and_not_the_plan(tmp_path: Path) -> None:
    noise = random.Random(0)
    names = [f"{noise.getrandbits(256):x}" for _ in range(50_000)]
    header = write_plan(tmp_path / "p", planned(names), recipe_id="r", shard_cost=100)
    (tmp_path / "plans").mkdir()
    path = (tmp_path / "p").rename(tmp_path / f"plans/{header.run_id}.parquet")
    store = CountingStore(tmp_path)
    assert len(get_plan(store, header.run_id).sources(250)) == 100
    assert 0 < store.num_bytes < path.stat().st_size / 8


def test_what_a_manifest_says_of_a_source_is_in_the_plan(lake: Lake) -> None:
    source = Source(
        uri="/v.mp4",
        size_bytes=5,
        version_token="t",
        given_id="7",
        metadata='{"a": 1}',
        corpus="home",
    )
    plan = lake.new_plan([PlannedSource(source=source, cost=1)], recipe_id="r", shard_cost=1)
    assert plan_sources(lake.get_plan(plan.run_id), 0) == [source]


def test_a_plan_remembers_what_it_tries_again(lake: Lake) -> None:
    retry = Retry(reasons=("NOT_MEDIA", "TRUNCATED"))
    plan = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1, retry=retry)
    assert lake.get_plan(plan.run_id).header == plan.header
    assert plan.header.retry == retry


def test_a_shard_that_holds_nothing_cannot_be_planned(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a cost above 0"):
        write_plan(tmp_path / "p", [], recipe_id="r", shard_cost=0)


@pytest.mark.parametrize("names", [["v", "v"], ["b", "a", "c"]])
def test_sources_out_of_order_are_refused(tmp_path: Path, names: list[str]) -> None:
    items = [PlannedSource(source=Source(uri=name), cost=1) for name in names]
    with pytest.raises(ValueError, match="sorted by source_id, each once"):
        write_plan(tmp_path / "p", items, recipe_id="r", shard_cost=1)


def test_a_plan_of_nothing_is_not_stored(lake: Lake) -> None:
    plan = lake.new_plan([], recipe_id="r", shard_cost=1)
    assert (plan.header.num_sources, plan.header.num_shards) == (0, 0)
    with pytest.raises(ObjectMissingError):
        lake.get_plan(plan.run_id)


def test_the_same_work_is_the_same_run_until_it_is_published(lake: Lake) -> None:
    first = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)
    assert lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1) == first
    assert lake.new_plan(planned(["v"]), recipe_id="s", shard_cost=1).run_id != first.run_id
    assert lake.mark_published(first.run_id, {"num_segments": 1})
    second = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)
    assert second.run_id != first.run_id
    assert (first.header.generation, second.header.generation) == (0, 1)
    assert plan_sources(lake.get_plan(second.run_id), 0) == plan_sources(first, 0)


def test_one_caller_publishes_a_run(lake: Lake) -> None:
    assert not lake.is_published("run")
    assert lake.mark_published("run", {"num_segments": 1})
    assert not lake.mark_published("run", {"num_segments": 2})
    assert lake.is_published("run")
    assert (Path(lake.uri) / "published/run.json").read_text() == '{"num_segments":1}'


def test_a_missing_or_changed_plan_is_named(lake: Lake) -> None:
    with pytest.raises(ObjectMissingError, match=r"plans/nobody.parquet: no such file"):
        lake.get_plan("nobody")
    run_id = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1).run_id
    path = Path(lake.uri) / "plans" / f"{run_id}.parquet"
    path.with_stem("other").write_bytes(path.read_bytes())
    with pytest.raises(ObjectError, match="the plan has changed"):
        lake.get_plan("other")
    path.write_bytes(b"torn")
    with pytest.raises(ObjectError, match="not a plan"):
        lake.get_plan(run_id)


def test_rows_that_are_not_the_plan_s_are_refused(lake: Lake) -> None:
    plan = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)
    path = Path(lake.uri) / "plans" / f"{plan.run_id}.parquet"
    metadata = {b"video2lora.plan": plan.header.text.encode()}
    table = pq.read_table(path)
    changed = table.set_column(1, "uri", [["/other.mp4"]]).cast(table.schema)
    pq.write_table(changed.replace_schema_metadata(metadata), path)
    with pytest.raises(ObjectError, match="block 0 has another sha256"):
        lake.get_plan(plan.run_id).sources(0)
