"""The same work gives the same plan, whoever plans it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import identity
from storage.errors import ObjectError, ObjectMissingError
from storage.lake import Lake
from storage.manifest import Source
from storage.plans import PLAN_SCHEMA, PlannedSource, make_plan, plan_sources


def planned(names: list[str], cost: float = 1.0) -> list[PlannedSource]:
    return [PlannedSource(source=Source(uri=f"/{name}.mp4"), cost=cost) for name in names]


def test_a_plan_does_not_depend_on_the_order_of_its_sources() -> None:
    names = [f"v{i}" for i in range(20)]
    plan = make_plan(planned(names), recipe_id="r", shard_cost=3)
    assert plan.equals(make_plan(planned(names[::-1]), recipe_id="r", shard_cost=3))
    assert plan.schema == PLAN_SCHEMA
    assert plan["source_id"].to_pylist() == sorted(plan["source_id"].to_pylist())


@given(
    st.lists(st.text(alphabet="abcdef", min_size=1, max_size=3), unique=True, max_size=30),
    st.floats(0.1, 5),
    st.floats(1, 9),
)
def test_every_source_is_in_one_shard_and_shards_are_filled_in_order(
    names: list[str], cost: float, shard_cost: float
) -> None:
    plan = make_plan(planned(names, cost), recipe_id="r", shard_cost=shard_cost)
    shards = plan["shard"].to_pylist()
    assert shards == sorted(shards)
    assert sorted(set(shards)) == list(range(len(set(shards))))
    found = [source.uri for shard in set(shards) for source in plan_sources(plan, shard)]
    assert sorted(found) == sorted(f"/{name}.mp4" for name in names)
    full = [shards.count(shard) * cost for shard in sorted(set(shards))[:-1]]
    assert all(shard_cost <= total + 1e-9 < shard_cost + cost + 1e-6 for total in full)


def test_a_source_listed_twice_is_planned_once() -> None:
    assert make_plan(planned(["v", "v"]), recipe_id="r", shard_cost=1).num_rows == 1


def test_what_a_manifest_says_of_a_source_is_in_the_plan() -> None:
    source = Source(
        uri="/v.mp4", size_bytes=5, version_token="t", given_id="7", metadata='{"a": 1}'
    )
    plan = make_plan([PlannedSource(source=source, cost=1)], recipe_id="r", shard_cost=1)
    assert plan_sources(plan, 0) == [source]


def test_a_shard_that_holds_nothing_cannot_be_planned() -> None:
    with pytest.raises(ValueError, match="give a cost above 0"):
        make_plan([], recipe_id="r", shard_cost=0)


def test_a_stored_plan_reads_back(lake: Lake) -> None:
    run_id, plan = lake.new_plan(planned(["v", "w"]), recipe_id="r", shard_cost=1)
    assert run_id == identity.run_id(plan)
    assert lake.get_plan(run_id).equals(plan)
    assert not lake.put_plan(run_id, plan)


def test_the_same_work_is_the_same_run_until_it_is_published(lake: Lake) -> None:
    first, _ = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)
    assert lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)[0] == first
    assert lake.new_plan(planned(["v"]), recipe_id="s", shard_cost=1)[0] != first
    assert lake.mark_published(first, {"num_segments": 1})
    second, plan = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)
    assert second != first
    assert plan["generation"].to_pylist() == [1]


def test_one_caller_publishes_a_run(lake: Lake) -> None:
    assert not lake.is_published("run")
    assert lake.mark_published("run", {"num_segments": 1})
    assert not lake.mark_published("run", {"num_segments": 2})
    assert lake.is_published("run")
    assert (Path(lake.uri) / "published/run.json").read_text() == '{"num_segments":1}'


def test_a_missing_or_changed_plan_is_named(lake: Lake) -> None:
    with pytest.raises(ObjectMissingError, match=r"plans/nobody.parquet: no such file"):
        lake.get_plan("nobody")
    run_id, _ = lake.new_plan(planned(["v"]), recipe_id="r", shard_cost=1)
    _, other = lake.new_plan(planned(["w"]), recipe_id="r", shard_cost=1)
    lake.put_plan("other", other)
    with pytest.raises(ObjectError, match="the plan has changed"):
        lake.get_plan("other")
    (Path(lake.uri) / "plans" / f"{run_id}.parquet").write_bytes(b"torn")
    with pytest.raises(ObjectError, match="not a plan"):
        lake.get_plan(run_id)
