"""Corpora over time: only what is new is done, and one video is one video."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
from storage.catalog import Catalog
from storage.lake import Lake, open_lake
from tasks.plan_run import plan_run
from tasks.progress import Event, listening
from tasks.summary import RunSummary
from tests.core.video_factory import write_video
from tests.pipeline.test_internalize import work
from video2lora_core.adapter import adapter_from_bytes

Run = Callable[..., RunSummary]

VIEWS = {
    "adapters_latest": "adapter_key",
    "segments": "adapter_key",
    "videos": "video_id",
    "coverage": "(video_id, recipe_id)",
    "compositions_latest": "(video_id, recipe_id)",
    "sources": "source_id",
}


def rows(lake: Lake, sql: str) -> list[dict[str, Any]]:
    return lake.query(sql).to_pylist()


def check_nothing_is_twice(lake: Lake, *, num_segments: int) -> None:
    for view, key in VIEWS.items():
        [found] = rows(lake, f"select count(*) n, count(distinct {key}) k from {view}")
        assert found["n"] == found["k"] > 0, view
    assert rows(lake, "select distinct missing_us from coverage") == [{"missing_us": 0}]
    assert rows(lake, "select count(*) n from segments") == [{"n": num_segments}]


@pytest.fixture
def config(corpus: Path, tmp_path: Path, model: str) -> Callable[..., InternalizeConfig]:
    def make(**changed: Any) -> InternalizeConfig:
        values = {"corpus": str(corpus), "lake": str(tmp_path / "lake"), "model": model}
        return InternalizeConfig(**{**values, **changed})

    return make


Config = Callable[..., InternalizeConfig]


def at_once(first: tuple[InternalizeConfig, str, int], *others: Any) -> None:
    """Do shards so that each is done whole while the one before has made what it commits later."""
    waiting = list(others)

    def do(config: InternalizeConfig, run_id: str, shard: int) -> None:
        place = {"run_id": run_id, "shard": shard}
        internalize_shard(config, LocalEngine(), **place, attempt_id=f"attempt-{len(waiting)}")

    def listen(event: Event, _count: int) -> None:
        if event == "segments" and waiting:
            do(*waiting.pop())

    with listening(listen):
        do(*first)
    assert not waiting


def test_a_shard_of_many_videos_asks_the_catalog_as_often_as_one_of_few(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read = Catalog.read

    def counted(catalog: Catalog, table: str, **given: Any) -> Any:
        asked.append(table)
        return read(catalog, table, **given)

    monkeypatch.setattr(Catalog, "read", counted)
    counts = []
    for number in (1, 12):
        content = (corpus / "short.mp4").read_bytes()
        for index in range(number):  # a free box at the end: other bytes, the same frames
            box = struct.pack(">I4sQ", 16, b"free", 100 * number + index)
            (corpus / f"{number}-{index}.mp4").write_bytes(content + box)
        asked.clear()
        done = run(lake=str(tmp_path / f"lake-{number}"), unit_segments=64)
        assert done.shards.num_compositions >= number
        counts.append(sorted(asked))
    assert counts[0] == counts[1]


@pytest.mark.slow
def test_one_video_under_two_uris_is_one_video_in_one_shard_and_in_two(
    config: Config, corpus: Path, tmp_path: Path
) -> None:
    shutil.copyfile(corpus / "short.mp4", corpus / "twin.mp4")
    for shard_videos in (1000, 1):
        lake = str(tmp_path / f"lake{shard_videos}")
        summary = internalize_corpus(config(lake=lake, shard_videos=shard_videos), LocalEngine())
        assert summary.plan.num_shards == (1 if shard_videos > 1 else 3)
        assert work(summary) == (3, 2, 5)
        check_nothing_is_twice(open_lake(lake), num_segments=5)


@pytest.mark.slow
def test_one_video_in_two_shards_that_run_at_once_is_one_video(
    config: Config, corpus: Path, tmp_path: Path
) -> None:
    shutil.copyfile(corpus / "short.mp4", corpus / "twin.mp4")
    settings = config(shard_videos=1)
    plan = plan_run(settings, attempt_id="plan")
    assert plan.num_shards == 3
    at_once(*((settings, plan.run_id, shard) for shard in range(3)))
    check_nothing_is_twice(open_lake(tmp_path / "lake"), num_segments=5)
    assert plan_run(settings, attempt_id="again").num_shards == 0


@pytest.mark.slow
def test_one_video_in_two_corpora_that_run_at_once_is_one_video(
    config: Config, corpus: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copyfile(corpus / "short.mp4", other / "same.mp4")
    runs = [config(), config(corpus=str(other))]
    plans = [plan_run(settings, attempt_id="plan") for settings in runs]
    assert plans[0].run_id != plans[1].run_id
    at_once(*((s, plan.run_id, 0) for s, plan in zip(runs, plans, strict=True)))
    check_nothing_is_twice(open_lake(tmp_path / "lake"), num_segments=5)
    assert [plan_run(s, attempt_id="again").num_shards for s in runs] == [0, 0]


def test_two_workers_that_are_given_one_shard_do_it_once(config: Config, tmp_path: Path) -> None:
    settings = config(unit_segments=2)
    plan = plan_run(settings, attempt_id="plan")
    at_once((settings, plan.run_id, 0), (settings, plan.run_id, 0))
    lake = open_lake(tmp_path / "lake")
    check_nothing_is_twice(lake, num_segments=5)
    [found] = rows(lake, "select count(*) n, count(distinct adapter_key) k from raw.adapters")
    assert found == {"n": 5, "k": 5}


def write_corpus(directory: Path, names: range, *, num_copies: int) -> Path:
    """Write a short video many times, each with other bytes behind it and with copies; list all."""
    directory.mkdir(exist_ok=True)
    base = directory.parent / "base.mp4"
    if not base.exists():
        write_video(base, numbers=range(24))
    data = base.read_bytes()
    for name in names:
        # A box of type `free`, which every reader of mp4 passes over.
        box = (16).to_bytes(4, "big") + b"free" + name.to_bytes(8, "big")
        for copy in range(num_copies):
            (directory / f"{name}-{copy}.mp4").write_bytes(data + box)
    manifest = directory.parent / "corpus.csv"
    listed = sorted(path.name for path in directory.iterdir())
    lines = [f"{directory.name}/{name},{name.removesuffix('.mp4')}\n" for name in listed]
    manifest.write_text("uri,id\n" + "".join(lines))
    return manifest


def check_a_corpus_that_grows(
    run: Run, lake: Callable[[], Lake], tmp_path: Path, *, num: int, num_copies: int
) -> None:
    num_rows = num * num_copies
    manifest = str(write_corpus(tmp_path / "many", range(num), num_copies=num_copies))
    shards = {"shard_videos": 250, "batch_segments": 64}
    first = run(corpus=manifest, **shards)
    assert work(first) == (num_rows, num, num)
    assert first.plan.num_shards == -(-num_rows // 250)
    again = run(corpus=manifest, **shards)
    assert (again.plan.num_done, again.plan.num_shards) == (num_rows, 0)
    assert work(again) == (0, 0, 0)
    write_corpus(tmp_path / "many", range(num, num + 10), num_copies=1)
    grown = run(corpus=manifest, **shards)
    assert work(grown) == (10, 10, 10)
    other = run(corpus=manifest, stored_dtype="float32", **shards)
    assert other.plan.recipe_id != first.plan.recipe_id
    assert work(other) == (0, num + 10, num + 10)
    counts = rows(lake(), "select recipe_id, count(*) n from adapters_latest group by 1")
    assert [row["n"] for row in counts] == [num + 10] * 2
    video_id = lake().resolve_video("0-0.mp4")
    for recipe_id in (first.plan.recipe_id, other.plan.recipe_id):
        [row] = lake().adapters_for([video_id], recipe_id)[video_id]
        assert adapter_from_bytes(lake().adapters.get(row["adapter_sha256"])).rank == row["rank"]


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[], Lake]:
    return lambda: open_lake(tmp_path / "lake")


def test_only_what_is_new_is_done_as_a_corpus_grows(
    run: Run, lake: Callable[[], Lake], tmp_path: Path
) -> None:
    check_a_corpus_that_grows(run, lake, tmp_path, num=6, num_copies=2)


@pytest.mark.slow
def test_only_what_is_new_is_done_as_a_corpus_of_a_thousand_rows_grows(
    run: Run, lake: Callable[[], Lake], tmp_path: Path
) -> None:
    check_a_corpus_that_grows(run, lake, tmp_path, num=100, num_copies=10)
