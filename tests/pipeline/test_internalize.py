"""From videos to a lake: what is made, and what is not made again."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import Lake, open_lake
from tasks.compose_videos import compose_videos
from tasks.progress import Event, listening
from tasks.summary import RunSummary
from video2lora_core.adapter import adapter_from_bytes

Run = Callable[..., RunSummary]


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[], Lake]:
    return lambda: open_lake(tmp_path / "lake")


def rows(lake: Lake, sql: str) -> list[dict[str, Any]]:
    return lake.query(sql).to_pylist()


def work(summary: RunSummary) -> tuple[int, int, int]:
    done = summary.shards
    return done.num_files_read, done.num_files_decoded, done.num_segments


def test_every_segment_becomes_an_adapter_and_every_video_a_composition(
    run: Run, lake: Callable[[], Lake]
) -> None:
    summary = run()
    assert work(summary) == (2, 2, 5)
    assert summary.shards.num_compositions == 2
    assert summary.published.is_first
    opened = lake()
    covered = rows(
        opened, "select duration_us, num_segments, num_adapters, missing_us from coverage"
    )
    assert sorted(map(tuple, (row.values() for row in covered))) == [
        (6_000_000, 2, 2, 0),
        (10_000_000, 3, 3, 0),
    ]
    for row in rows(opened, "select adapter_sha256, rank, frame_times_us from adapters"):
        adapter = adapter_from_bytes(opened.adapters.get(row["adapter_sha256"]))
        assert not adapter.has_bias
        assert adapter.rank == row["rank"]
        assert len(row["frame_times_us"]) == 4


def test_a_composition_names_its_parents_in_order_of_time(
    run: Run, lake: Callable[[], Lake]
) -> None:
    run()
    found = rows(
        lake(),
        """select c.parents, c.rank, c.num_segments, c.covered_us, c.adapter_sha256,
                  list(a.adapter_sha256 order by a.start_us) as expected
           from compositions c join adapters_latest a using (video_id) group by all""",
    )
    assert len(found) == 2
    for row in found:
        assert row["parents"] == row["expected"]
        assert row["rank"] == 2 * row["num_segments"]
        assert row["adapter_sha256"] is None


def test_a_batch_mixes_segments_of_several_videos(run: Run, lake: Callable[[], Lake]) -> None:
    run()
    # A batch's device time is shared out evenly, so equal times mean one batch.
    batches = rows(
        lake(), "select device_s, count(*) n, count(distinct video_id) v from adapters group by 1"
    )
    assert sorted((row["n"], row["v"]) for row in batches) == [(1, 1), (4, 2)]


def test_a_second_run_reads_nothing_and_runs_no_model(run: Run) -> None:
    run()
    again = run()
    assert work(again) == (0, 0, 0)
    assert (again.plan.num_done, again.plan.num_shards) == (2, 0)


def test_a_new_video_is_the_only_work_of_the_next_run(run: Run, corpus: Path, shelf: Path) -> None:
    run(corpus=str(corpus / "short.mp4"))
    assert work(run()) == (1, 1, 3)


def test_the_same_bytes_under_two_names_are_one_video(
    run: Run, corpus: Path, lake: Callable[[], Lake]
) -> None:
    shutil.copyfile(corpus / "short.mp4", corpus / "twin.mp4")
    assert work(run()) == (3, 2, 5)
    shutil.copyfile(corpus / "short.mp4", corpus / "third.mp4")
    assert work(run()) == (1, 0, 0)
    counts = "select (select count(*) from sources) s, (select count(*) from videos) v"
    assert rows(lake(), counts) == [{"s": 4, "v": 2}]


def test_a_touched_file_is_read_again_but_not_decoded(run: Run, corpus: Path) -> None:
    run()
    os.utime(corpus / "short.mp4", ns=(1, 1))
    assert work(run()) == (1, 0, 0)


def test_another_recipe_makes_new_adapters_beside_the_old_ones(
    run: Run, lake: Callable[[], Lake]
) -> None:
    first = run()
    second = run(stored_dtype="float32")
    assert first.plan.recipe_id != second.plan.recipe_id
    assert work(second) == (0, 2, 5)
    counts = rows(lake(), "select recipe_id, count(*) n from adapters group by 1")
    assert Counter(row["n"] for row in counts) == {5: 2}


def test_what_only_decides_speed_is_not_in_the_recipe(run: Run) -> None:
    first = run()
    assert work(run(batch_segments=1, unit_segments=2, shard_videos=1)) == (0, 0, 0)
    assert first.plan.num_shards == 1


def test_shards_and_units_of_any_size_give_the_same_catalog(
    run: Run, lake: Callable[[], Lake]
) -> None:
    summary = run(shard_videos=1, unit_segments=2)
    assert summary.plan.num_shards == 2
    assert summary.shards.num_segments == 5
    units = rows(
        lake(), "select shard, unit, num_segments from runs where event = 'unit' order by all"
    )
    sizes = [row["num_segments"] for row in units]
    assert max(sizes) == 2
    assert sum(sizes) == 5
    assert all(row["missing_us"] == 0 for row in rows(lake(), "select missing_us from coverage"))


class StoppedError(Exception):
    """What stands for a kill in these tests."""


def stop_after(num_segments: int) -> Callable[[Event, int], None]:
    seen: Counter[Event] = Counter()

    def listen(event: Event, count: int) -> None:
        seen[event] += count
        if seen["segments"] >= num_segments:
            raise StoppedError

    return listen


def test_an_interrupted_run_is_finished_whatever_units_the_next_one_cuts(
    run: Run, lake: Callable[[], Lake]
) -> None:
    with pytest.raises(StoppedError), listening(stop_after(3)):
        run(unit_segments=1, batch_segments=1)
    assert 0 < len(rows(lake(), "select * from segments")) < 5
    run(unit_segments=64)
    assert len(rows(lake(), "select distinct adapter_key from adapters")) == 5


def test_an_interrupted_run_goes_on_where_it_was_committed(
    run: Run, lake: Callable[[], Lake]
) -> None:
    settings = {"unit_segments": 2, "batch_segments": 2}
    with pytest.raises(StoppedError), listening(stop_after(4)):
        run(**settings)
    committed = len(rows(lake(), "select * from segments"))
    assert committed == 4  # what is complete is committed before the shard ends
    summary = run(**settings)
    assert summary.shards.num_segments == 5 - committed
    assert summary.shards.num_compositions == 2
    keys = rows(lake(), "select count(*) n, count(distinct adapter_key) k from adapters")
    assert keys == [{"n": 5, "k": 5}]
    assert len(rows(lake(), "select distinct run_id from runs")) == 1


class DyingEngine(LocalEngine):
    """Dies before the step that composes."""

    def step(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if function is compose_videos:
            raise StoppedError
        return super().step(function, *args, **kwargs)


def test_a_run_that_died_before_composing_only_composes(
    run: Run, corpus: Path, tmp_path: Path, model: str
) -> None:
    config = InternalizeConfig(
        corpus=str(corpus), lake=str(tmp_path / "lake"), model=model, unit_segments=2
    )
    with pytest.raises(StoppedError):
        internalize_corpus(config, DyingEngine())
    summary = run(unit_segments=2)
    assert work(summary) == (0, 0, 0)
    assert summary.shards.num_compositions == 2


def test_the_lake_holds_the_checkpoint_that_its_adapters_name(
    run: Run, lake: Callable[[], Lake]
) -> None:
    run()
    [row] = rows(lake(), "select distinct checkpoint_sha256 as sha from adapters")
    assert set(lake().get_checkpoint(row["sha"])) == {
        "hypernetwork.json",
        "hypernetwork.safetensors",
    }


def test_a_manifest_keeps_its_ids_and_columns(
    run: Run, corpus: Path, tmp_path: Path, lake: Callable[[], Lake]
) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("uri,id,place\nvideos/short.mp4,clip-1,kitchen\n")
    assert work(run(corpus=str(manifest), corpus_name="home")) == (1, 1, 2)
    [row] = rows(lake(), "select given_id, metadata, corpus from sources")
    assert (row["given_id"], row["corpus"]) == ("clip-1", "home")
    assert "kitchen" in row["metadata"]
    assert lake().resolve_video("clip-1")


def test_a_deleted_video_stays_deleted_on_a_second_run(
    run: Run, corpus: Path, lake: Callable[[], Lake]
) -> None:
    run()
    video_id = lake().resolve_video("short.mp4")
    lake().append("tombstones", [{"video_id": video_id, "sequence": 1, "is_deleted": True}])
    os.utime(corpus / "short.mp4", ns=(1, 1))
    assert work(run()) == (1, 0, 0)
    assert rows(lake(), "select count(*) n from videos") == [{"n": 1}]


def test_a_remote_video_is_fetched_once_and_its_copy_removed(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    files.pipe_file("/remote/short.mp4", (corpus / "short.mp4").read_bytes())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert work(run(corpus="memory://remote")) == (1, 1, 2)
    assert list(scratch.iterdir()) == []
    assert work(run(corpus="memory://remote")) == (0, 0, 0)
