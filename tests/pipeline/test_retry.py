"""Runs over what the catalog lists: rejects tried again, videos that lack adapters."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import validate
from configs.schema import CATALOG, REJECTS, InternalizeConfig
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
from storage.errors import LakeError
from storage.lake import Lake, open_lake
from tasks import internalize_batch
from tasks.dry_run import dry_run
from tasks.plan_run import plan_run
from tasks.progress import listening
from tasks.summary import RunSummary
from tests.core.conftest import VideoShelf
from tests.pipeline.test_internalize import StoppedError, stop_after, work
from video2lora_core.errors import UsageError
from video2lora_core.internalize import internalize

Run = Callable[..., RunSummary]


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[], Lake]:
    return lambda: open_lake(tmp_path / "lake")


def rows(lake: Lake, sql: str) -> list[dict[str, Any]]:
    return lake.query(sql).to_pylist()


@pytest.fixture
def manifest(tmp_path: Path, corpus: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text(
        '{"uri": "videos/short.mp4"}\n{"uri": "videos/late.mp4", "id": "L", "place": "attic"}\n'
    )
    return path


def test_a_file_that_came_back_is_all_that_a_retry_does(
    run: Run, manifest: Path, corpus: Path, lake: Callable[[], Lake]
) -> None:
    run(corpus=str(manifest), corpus_name="home")
    still_gone = run(corpus=REJECTS)
    assert (still_gone.plan.num_sources, still_gone.shards.num_rejects) == (1, 1)
    assert [row["attempt"] for row in rows(lake(), "select attempt from open_rejects")] == [2]
    shutil.copyfile(corpus / "long.mp4", corpus / "late.mp4")
    again = run(corpus=REJECTS)
    assert work(again) == (1, 1, 3)
    assert rows(lake(), "select * from open_rejects") == []
    [row] = rows(lake(), "select given_id, metadata, corpus from sources where given_id = 'L'")
    assert (row["corpus"], row["metadata"]) == ("home", '{"place": "attic"}')
    assert run(corpus=REJECTS).plan.num_sources == 0


def test_a_known_file_that_went_and_came_back_closes_its_reject(
    run: Run, corpus: Path, tmp_path: Path, lake: Callable[[], Lake]
) -> None:
    manifest = tmp_path / "one.csv"
    manifest.write_text("uri\nvideos/short.mp4\n")
    run(corpus=str(manifest))
    (corpus / "short.mp4").rename(tmp_path / "away.mp4")
    assert run(corpus=str(manifest)).shards.num_rejects == 1
    (tmp_path / "away.mp4").rename(corpus / "short.mp4")
    assert len(rows(lake(), "select * from open_rejects")) == 1
    assert work(run(corpus=REJECTS)) == (0, 0, 0)
    assert rows(lake(), "select * from open_rejects") == []


@pytest.fixture
def cut(corpus: Path) -> Path:
    """Beside the good videos one that is cut short, and a text of a video's name."""
    whole = VideoShelf(corpus)("faststart.mp4")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 8 // 10])
    (corpus / "text.mp4").write_text("words")
    return corpus


def test_final_rejects_are_tried_again_only_where_their_reason_is_named(
    run: Run, cut: Path, lake: Callable[[], Lake]
) -> None:
    run()
    final = rows(lake(), "select uri, reason, adapter_key from open_rejects where is_terminal")
    reasons = sorted({row["reason"] for row in final})
    whole = [row for row in final if row["adapter_key"] is None]
    assert whole
    assert run(corpus=REJECTS).plan.num_sources == 0
    again = run(corpus=REJECTS, retry_reasons=reasons)
    assert again.shards.num_rejects == len(final)
    assert {row["attempt"] for row in rows(lake(), "select attempt from open_rejects")} == {2}
    other = run(corpus=REJECTS, retry_reasons=["NON_FINITE"])
    assert other.plan.num_sources == 0
    assert run().plan.num_shards == 0


def spoiled(*arguments: Any, **options: Any) -> list[Any]:
    """Internalize, with factors that are not finite."""
    return [
        replace(
            adapter,
            factors={
                name: replace(factors, a=factors.a * torch.inf)
                for name, factors in adapter.factors.items()
            },
        )
        for adapter in internalize(*arguments, **options)
    ]


def test_a_retry_that_was_interrupted_goes_on_in_the_same_units(
    run: Run,
    lake: Callable[[], Lake],
    tmp_path: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = {"corpus": REJECTS, "lake": str(tmp_path / "lake"), "model": model}
    settings = {"unit_segments": 1, "batch_segments": 1, "retry_reasons": ["NON_FINITE"]}
    with monkeypatch.context() as patched:
        patched.setattr(internalize_batch, "internalize", spoiled)
        assert run(unit_segments=1).shards.num_rejects == 5
    assert len(rows(lake(), "select * from open_rejects where is_terminal")) == 5
    # Only the engine is called again, as for an attempt of the same run: nothing is planned anew.
    # One reader: with two, the second video's segments may come first, and wait for their elders.
    config = InternalizeConfig(**values, **settings, decode={"workers": 0})
    plan = plan_run(config, attempt_id="first")
    place = {"run_id": plan.run_id, "shard": 0}
    with pytest.raises(StoppedError), listening(stop_after(3)):
        internalize_shard(config, LocalEngine(), **place, attempt_id="first")
    closed = "select shard, unit, num_segments from runs where event = 'unit' and run_id = "
    before = rows(lake(), f"{closed} '{plan.run_id}' order by all")
    assert 0 < len(before) < 5
    again = internalize_shard(config, LocalEngine(), **place, attempt_id="second")
    assert again.num_segments == 5 - len(before)
    assert rows(lake(), f"{closed} '{plan.run_id}' order by all")[: len(before)] == before
    counts = "select count(*) n, count(distinct adapter_key) k from adapters"
    assert rows(lake(), counts) == [{"n": 5, "k": 5}]
    assert rows(lake(), "select * from open_rejects") == []
    third = internalize_shard(config, LocalEngine(), **place, attempt_id="third")
    assert (third.num_segments, third.num_files_decoded, third.num_units) == (0, 0, 0)


def test_a_run_that_follows_to_another_recipe_does_what_is_stale(
    run: Run, corpus: Path, lake: Callable[[], Lake]
) -> None:
    shutil.copyfile(corpus / "short.mp4", corpus / "twin.mp4")
    run()
    assert work(run(corpus=CATALOG)) == (0, 0, 0)
    run(corpus=str(corpus / "short.mp4"), stored_dtype="float32")
    again = run(corpus=CATALOG, stored_dtype="float32")
    assert work(again) == (0, 1, 3)
    assert again.plan.num_shards == 1
    counts = rows(lake(), "select recipe_id, count(*) n from adapters group by 1")
    assert [row["n"] for row in counts] == [5, 5]
    assert {row["corpus"] for row in rows(lake(), "select corpus from sources")} == {str(corpus)}


def test_following_takes_a_copy_that_is_still_there_and_rejects_what_has_none(
    run: Run, corpus: Path, lake: Callable[[], Lake]
) -> None:
    shutil.copyfile(corpus / "short.mp4", corpus / "a-twin.mp4")
    run()
    (corpus / "a-twin.mp4").unlink()
    (corpus / "long.mp4").unlink()
    followed = run(corpus=CATALOG, stored_dtype="float32")
    assert work(followed) == (1, 1, 2)
    assert followed.shards.num_rejects == 1
    found = rows(lake(), "select parse_filename(uri) name, reason from open_rejects")
    assert found == [{"name": "long.mp4", "reason": "SRC_NOT_FOUND"}]


def test_deleted_videos_are_not_followed(run: Run, lake: Callable[[], Lake], corpus: Path) -> None:
    run()
    video_id = lake().resolve_video("short.mp4")
    lake().append("tombstones", [{"video_id": video_id, "sequence": 1, "is_deleted": True}])
    assert work(run(corpus=CATALOG, stored_dtype="float32")) == (0, 1, 3)


@pytest.mark.parametrize("corpus_form", [REJECTS, CATALOG])
def test_the_catalog_of_no_lake_lists_nothing_and_makes_none(
    run: Run, tmp_path: Path, model: str, corpus_form: str
) -> None:
    with pytest.raises(LakeError, match="no lake here"):
        run(corpus=corpus_form)
    config = InternalizeConfig(corpus=corpus_form, lake=str(tmp_path / "lake"), model=model)
    with pytest.raises(LakeError, match="no lake here"):
        dry_run(config)
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"retry_reasons": ["TRUNCATED"]}, "`retry_reasons` needs `corpus: catalog:rejects`"),
        ({"corpus": REJECTS, "retry_reasons": ["LAZY"]}, "key `retry_reasons.0` is wrong"),
    ],
)
def test_reasons_that_would_not_be_used_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        validate({"corpus": "x", "lake": "y", **changed}, InternalizeConfig, where="run")
