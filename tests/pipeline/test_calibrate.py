"""Calibration: bounds are learned, written down, used by the next run, and change nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.load import load_model_config
from configs.schema import ModelConfig
from flows import cli
from storage.lake import open_lake
from tasks.calibrate import Calibration, calibrate, corpus_segments
from tasks.models import forget_model
from tasks.render_corpus import render_corpus
from tasks.summary import RunSummary
from tests.core.video_factory import write_video
from tests.pipeline.conftest import write_model
from video2lora_core.checkpoint import load_checkpoint, save_bounds, save_checkpoint
from video2lora_core.errors import UsageError

Run = Callable[..., RunSummary]

ONE_SECOND = {"segment_s": 1.0, "min_tail_s": 0.5, "num_frames": 4}


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five videos of ten seconds, and a file that is no video."""
    directory = tmp_path_factory.mktemp("validation")
    for index in range(5):
        write_video(directory / f"{index}.mp4", numbers=range(100 * index, 100 * index + 80))
    (directory / "broken.mp4").write_bytes(b"no video at all")
    return directory


@pytest.fixture
def fresh(model_dir: Path, tmp_path: Path) -> Path:
    """The config of a model whose checkpoint belongs to this test."""
    shutil.copytree(model_dir / "vlm", tmp_path / "vlm")
    return write_model(tmp_path, seed=3, segments=ONE_SECOND)


@pytest.fixture
def calibrated(fresh: Path, validation: Path) -> tuple[Path, Calibration]:
    found = calibrate(load_model_config(str(fresh)), corpus=str(validation), num_segments=36)
    return fresh, found


def rejects_of(lake: Path) -> list[dict[str, Any]]:
    sql = "select distinct reason, is_terminal, detail from open_rejects"
    rows: list[dict[str, Any]] = open_lake(lake).query(sql).to_pylist()
    return rows


def test_bounds_are_written_and_the_checkpoint_stays_the_same(
    calibrated: tuple[Path, Calibration],
) -> None:
    path, found = calibrated
    config = load_model_config(str(path))
    checkpoint = load_checkpoint(config.checkpoint, expected_sha256=found.checkpoint_sha256)
    assert found.bounds.num_segments == 36
    assert found.num_left_out == 0
    assert checkpoint.bounds is not None
    assert set(checkpoint.bounds.log_norms) == {
        f"down_proj.{layer}.{what}" for layer in (0, 1, 2) for what in ("A", "B", "update")
    }


def test_a_run_before_and_a_run_after_share_a_lake(
    run: Run, fresh: Path, validation: Path, tmp_path: Path
) -> None:
    first = run(model=str(fresh))
    lake = open_lake(tmp_path / "lake")
    [sha] = lake.query("select distinct checkpoint_sha256 as sha from adapters").to_pylist()
    kept = lake.get_checkpoint(sha["sha"])
    calibrate(load_model_config(str(fresh)), corpus=str(validation), num_segments=36)
    again = run(model=str(fresh))
    assert again.plan.recipe_id == first.plan.recipe_id
    assert again.plan.num_shards == 0
    other = run(model=str(fresh), stored_dtype="float32")  # a new plan puts the checkpoint again
    assert other.shards.num_segments == first.shards.num_segments == 16
    assert lake.get_checkpoint(sha["sha"]) == kept


def test_a_damaged_hypernetwork_makes_rejects_with_figures_and_no_adapter(
    run: Run, calibrated: tuple[Path, Calibration], tmp_path: Path
) -> None:
    path, found = calibrated
    assert run(model=str(path), lake=str(tmp_path / "good")).shards.num_rejects == 0
    hypernetwork = load_checkpoint(found.checkpoint).hypernetwork
    with torch.no_grad():
        hypernetwork.head.weight[1] *= 8.0
    save_checkpoint(found.checkpoint, hypernetwork, info={})
    save_bounds(found.checkpoint, found.bounds)
    forget_model()
    assert run(model=str(path)).shards.num_rejects == 16
    rows = rejects_of(tmp_path / "lake")
    assert {(row["reason"], row["is_terminal"]) for row in rows} == {("NORM_OUTLIER", True)}
    assert all("down_proj.1.A" in row["detail"] for row in rows)
    assert open_lake(tmp_path / "lake").query("select * from adapters").num_rows == 0
    assert run(model=str(path)).plan.num_shards == 0  # terminal: nothing is tried again


def test_no_video_speaks_for_all_and_a_broken_one_is_left_out(
    fresh: Path, validation: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = list(corpus_segments(str(validation), load_model_config(str(fresh))))
    assert len(found) == 5 * 8
    starts_s = [one.segment.start_us // 1_000_000 for one in found[:8]]
    assert starts_s == [0, 1, 3, 4, 5, 6, 8, 9]
    assert "broken.mp4: left out: NOT_MEDIA" in caplog.text


def test_too_few_segments_are_refused(fresh: Path, shelf: Path) -> None:
    config = load_model_config(str(fresh))
    with pytest.raises(UsageError, match=r"14 segments \(expected at least 32\); give more"):
        calibrate(config, corpus=str(shelf))
    assert load_checkpoint(config.checkpoint).bounds is None


def test_a_model_of_no_rendered_world_needs_a_corpus(fresh: Path) -> None:
    with pytest.raises(UsageError, match=r"model random was not .*give validation videos"):
        calibrate(load_model_config(str(fresh)))


def test_the_command_prints_the_bounds(
    fresh: Path,
    validation: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["calibrate", "--model", str(fresh), "--videos", str(validation)]
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["video2lora", *given, "--num-segments", "32", *more])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        out = capsys.readouterr().out
        if more:
            document = json.loads(out)
            assert document["num_segments"] == 32
            lower, upper = document["log_norms"]["down_proj.2.update"]
            assert lower < upper
        else:
            assert "down_proj.2.update" in out
            assert "learned on 32 segments" in out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    """The embedded default with a checkpoint that may be written."""
    config = load_model_config("tiny")
    directory = tmp_path_factory.mktemp("tiny") / "hypernetwork"
    shutil.copytree(config.checkpoint, directory)
    return config.model_copy(update={"checkpoint": directory})


def test_the_embedded_default_calibrates_on_its_own_world(tiny: ModelConfig) -> None:
    shipped = load_checkpoint(tiny.checkpoint)
    found = calibrate(tiny, num_segments=48)
    assert found.checkpoint_sha256 == shipped.sha256
    assert shipped.bounds is not None
    assert shipped.bounds.num_segments == 256
    for name, bound in found.bounds.log_norms.items():
        assert bound.lower == pytest.approx(shipped.bounds.log_norms[name].lower, abs=0.5)
        assert bound.upper == pytest.approx(shipped.bounds.log_norms[name].upper, abs=0.5)


def test_the_shipped_bounds_pass_rendered_videos_and_others(
    run: Run, corpus: Path, tmp_path: Path
) -> None:
    render_corpus(corpus, seed=77, num_scenes=[1, 2, 3, 4])
    assert run(model="tiny").shards.num_rejects == 0
    rows = open_lake(tmp_path / "lake").query("select count(*) n from adapters").to_pylist()
    assert rows == [{"n": 10 + 5}]
