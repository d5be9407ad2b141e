"""Compositions in a lake: under a budget, with a true error, stored exactly once."""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
import torch

from configs.schema import InternalizeConfig
from flows.api import OpenLake, open_lake
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import open_lake as open_stored
from tasks.compose_adapters import Reduction, save_composition
from tasks.members import find_members
from tests.pipeline.conftest import RANK, write_model
from video2lora_core.adapter import adapter_from_bytes
from video2lora_core.errors import AdapterError, ModelMismatchError, UsageError

QUESTION = "How many objects are there?"


@pytest.fixture
def opened(tmp_path: Path, shelf: Path, model: str) -> Iterator[OpenLake]:
    uri = str(tmp_path / "lake")
    internalize_corpus(InternalizeConfig(corpus=str(shelf), lake=uri, model=model), LocalEngine())
    return open_lake(uri, model=model)


def adapter_ids(opened: OpenLake) -> list[str]:
    rows = opened.sql("select adapter_sha256 from adapters_latest order by video_id, start_us")
    return rows["adapter_sha256"].to_pylist()


def dense(adapter: Any) -> torch.Tensor:
    f = adapter.factors["down_proj"]
    return adapter.scaling * f.b.double().mT @ f.a.double()


def stored_rows(opened: OpenLake, composition_id: str) -> list[dict[str, Any]]:
    where = pc.field("composition_id") == composition_id
    rows: list[dict[str, Any]] = opened.lake.catalog.read("compositions", where=where).to_pylist()
    return rows


@pytest.mark.parametrize("method", ["svd", "top_k"])
def test_a_reduced_composition_is_stored_with_its_true_error(opened: OpenLake, method: Any) -> None:
    members = opened.members(adapter_ids(opened))
    composed = opened.composition(members, Reduction(method=method, rank=3))
    [row] = stored_rows(opened, opened.save(composed))
    file = adapter_from_bytes(opened.lake.adapters.get(row["adapter_sha256"]))
    exact = dense(opened.composition(members).adapter)
    error = ((dense(file) - exact).norm() / exact.norm()).item()
    assert row["relative_error"] == pytest.approx(error, rel=1e-4)
    assert 0 < error < 1
    assert (file.rank, row["rank"], row["num_segments"]) == (3, 3, 5)
    assert (row["video_id"], row["covered_us"]) == (None, 16_000_000)
    assert json.loads(row["tree"])["method"] == method
    assert not file.has_bias


def test_a_byte_budget_is_kept_and_as_good_as_it_can_be(opened: OpenLake) -> None:
    members = opened.members(adapter_ids(opened))
    budget = 5_000
    composed = opened.composition(members, Reduction(method="svd", num_bytes=budget))
    per_rank = 3 * (96 + 64) * 2
    assert budget - 2 * per_rank < composed.row["size_bytes"] <= budget
    with pytest.raises(UsageError, match="100 bytes hold no rank"):
        opened.composition(members, Reduction(method="svd", num_bytes=100))


def test_concat_needs_no_file_and_is_the_composition_that_was_there(opened: OpenLake) -> None:
    picked = opened.pick("long.mp4")
    composed = opened.composition(opened.members(picked.ids))
    assert composed.data is None
    assert (composed.row["relative_error"], composed.row["rank"]) == (0.0, 3 * RANK)
    assert opened.save(composed) == composed.row["composition_id"]
    assert len(stored_rows(opened, composed.row["composition_id"])) == 1  # the shard wrote it


def test_concat_of_concats_is_the_flat_sum_and_other_nestings_record_their_tree(
    opened: OpenLake,
) -> None:
    ids = adapter_ids(opened)
    first = opened.save(opened.composition(opened.members(ids[:2])))
    nested = opened.composition(opened.members([first, *ids[2:]]))
    flat = opened.composition(opened.members(ids))
    assert nested.row == flat.row
    assert flat.row["tree"] is None
    short = opened.save(
        opened.composition(opened.members(ids[:3]), Reduction(method="svd", rank=2))
    )
    mixed = opened.composition(opened.members([short, *ids[3:]], coefficients=[0.5, 1, 1]))
    assert mixed.row["composition_id"] != flat.row["composition_id"]
    assert mixed.row["parents"] == ids
    assert mixed.row["coefficients"] == [0.5, 0.5, 0.5, 1, 1]
    tree = json.loads(mixed.row["tree"])
    assert [member.get("composition") for member in tree["members"]] == [short, None, None]
    assert tree["members"][0]["tree"]["rank"] == 2
    exact = opened.composition(opened.members(ids, coefficients=[0.5, 0.5, 0.5, 1, 1])).adapter
    error = (dense(mixed.adapter) - dense(exact)).norm() / dense(exact).norm()
    assert mixed.row["relative_error"] == pytest.approx(error.item(), rel=1e-4)
    again = opened.composition(opened.members([opened.save(mixed)]))
    assert torch.equal(dense(again.adapter), dense(mixed.adapter))


def test_what_decides_the_result_is_in_the_id_and_nothing_else(opened: OpenLake) -> None:
    members = opened.members(adapter_ids(opened))

    def named(**how: Any) -> str:
        row = opened.composition(members, Reduction(**how)).row
        return str(row["composition_id"])

    svd = named(method="svd", rank=3)
    assert svd == named(method="svd", rank=3, seed=5)  # the exact path draws no numbers
    others = {named(method="svd", rank=4), named(method="top_k", rank=3), named()}
    assert len(others | {svd}) == 4


def test_a_stored_composition_answers_by_its_id(opened: OpenLake) -> None:
    members = opened.members(opened.pick("long.mp4").ids)
    exact = opened.save(opened.composition(members))
    short = opened.save(opened.composition(members, Reduction(method="svd", rank=5)))
    whole = opened.ask(QUESTION, video="long.mp4", max_new_tokens=4)
    assert opened.ask(QUESTION, video=f"composition:{exact}", max_new_tokens=4).text == whole.text
    assert opened.adapter(f"composition:{short[:10]}").rank == 5 + RANK
    assert opened.pick(f"composition:{short[:10]}").composition_id == short


def _save(uri: str, ids: list[str]) -> str:
    lake = open_stored(uri)
    from tasks.compose_adapters import compose_adapters

    composed = compose_adapters(lake, find_members(lake, ids), Reduction(method="svd", rank=3))
    return str(save_composition(lake, composed)["composition_id"])


@pytest.mark.slow
def test_two_processes_store_one_composition_once(opened: OpenLake) -> None:
    ids, uri = adapter_ids(opened), opened.lake.uri
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = {future.result() for future in [pool.submit(_save, uri, ids) for _ in range(2)]}
    assert len(found) == 1
    [row] = stored_rows(opened, found.pop())
    opened.lake.adapters.get(row["adapter_sha256"])


def test_a_killed_attempt_is_completed_by_the_next(
    opened: OpenLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = opened.composition(
        opened.members(adapter_ids(opened)), Reduction(method="svd", rank=3)
    )
    append = opened.lake.catalog.append

    def die_at_the_closing_row(table: str, *rest: Any, **options: Any) -> bool:
        if table == "runs":
            raise KeyboardInterrupt
        return append(table, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(opened.lake.catalog, "append", die_at_the_closing_row)
        with pytest.raises(KeyboardInterrupt):
            opened.save(composed)
    composition_id = opened.save(composed)
    assert len(stored_rows(opened, composition_id)) == 1
    assert opened.lake.next_unit(composition_id, 0) == 1


def test_a_deleted_videos_adapters_are_refused_also_inside_a_composition(opened: OpenLake) -> None:
    ids = opened.pick("long.mp4").ids
    stored = opened.save(opened.composition(opened.members(ids), Reduction(method="svd", rank=3)))
    video_id = opened.pick("long.mp4").video_id
    opened.lake.append("tombstones", [{"video_id": video_id, "sequence": 1, "is_deleted": True}])
    for chosen in (ids[:1], [stored]):
        with pytest.raises(ModelMismatchError, match="was deleted"):
            opened.members(chosen)


def test_adapters_of_two_checkpoints_are_never_composed(
    opened: OpenLake, shelf: Path, model_dir: Path
) -> None:
    second = str(write_model(model_dir, seed=3))
    config = InternalizeConfig(corpus=str(shelf), lake=opened.lake.uri, model=second)
    internalize_corpus(config, LocalEngine())
    with pytest.raises(AdapterError, match="checkpoint_sha256 differ"):
        opened.members(sql="select adapter_sha256 from adapters_latest")


def test_adapters_of_random_weights_are_refused_unless_allowed(opened: OpenLake) -> None:
    [row] = opened.lake.catalog.read(
        "adapters", where=pc.field("adapter_sha256") == adapter_ids(opened)[0]
    ).to_pylist()
    row |= {"is_random": True, "adapter_key": "f" * 64, "adapter_sha256": "e" * 64}
    opened.lake.append("adapters", [row])
    for refused in (
        lambda: opened.members([row["adapter_sha256"]]),
        lambda: opened.pick(row["video_id"]),
        lambda: opened.export("out", [row["video_id"]]),
    ):
        with pytest.raises(ModelMismatchError, match="random weights"):
            refused()
    allowed = OpenLake(opened.lake, opened.config, allow_random=True)
    assert allowed.pick(row["video_id"]).rows


@pytest.mark.parametrize(
    ("ids", "coefficients", "said"),
    [
        ([], None, "no adapter was chosen"),
        (["f" * 64], None, "0 adapters and compositions"),
        (["xyz"], None, "64 hexadecimal digits"),
        (["abc"], None, "64 hexadecimal digits"),
        (["a" * 64, "a" * 64], None, "given twice"),
        (["a" * 64], [1.0, 2.0], "2 coefficients for 1 adapters"),
    ],
)
def test_ids_that_name_nothing_are_one_clear_line(
    tmp_path: Path, ids: list[str], coefficients: list[float] | None, said: str
) -> None:
    lake = open_stored(tmp_path / "empty", create=True)
    with pytest.raises(UsageError, match=said):
        find_members(lake, ids, coefficients=coefficients)


@pytest.mark.parametrize(
    "how",
    [
        {"method": "svd"},
        {"method": "svd", "rank": 0},
        {"method": "top_k", "rank": 2, "num_bytes": 10},
        {"method": "concat", "rank": 2},
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give --rank or --bytes"):
        Reduction(**how)
