"""`video2lora plan` says what a run would do, and changes nothing."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from configs.load import load_model_config
from configs.schema import InternalizeConfig
from tasks.dry_run import DryRun, dry_run
from tasks.models import visual_token_shape
from tasks.summary import RunSummary

Run = Callable[..., RunSummary]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(corpus: Path, tmp_path: Path, model: str) -> Callable[..., DryRun]:
    def plan(**changed: Any) -> DryRun:
        values = {"corpus": str(corpus), "lake": str(tmp_path / "lake"), "model": model}
        return dry_run(InternalizeConfig(**{**values, **changed}))

    return plan


Ask = Callable[..., DryRun]


def tree(directory: Path) -> dict[str, tuple[int, int]]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


def test_without_a_lake_everything_is_to_do_and_unknown_is_said(ask: Ask, tmp_path: Path) -> None:
    found = ask(price_per_device_hour=2.0)
    assert (found.num_listed, found.num_todo, found.num_done, found.num_shards) == (2, 2, 0, 1)
    assert (found.num_unknown, found.num_segments, found.num_units) == (2, 0, None)
    assert (found.device_hours, found.decode_hours, found.cost) == (None, None, None)
    assert not (tmp_path / "lake").exists()


def test_durations_of_a_manifest_give_hours_segments_and_shards(ask: Ask, tmp_path: Path) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("uri,duration\nvideos/long.mp4,10\nvideos/short.mp4,6.0\n")
    found = ask(corpus=str(manifest))
    assert (found.num_known, found.num_unknown, found.num_segments) == (2, 0, 5)
    assert found.hours_known == pytest.approx(16 / 3600)
    assert (found.num_shards, found.num_units) == (1, 1)
    assert ask(corpus=str(manifest), shard_videos=1, unit_segments=2).num_units == 3
    assert ask(corpus=str(manifest), shard_hours=0.001).num_shards == 2


@pytest.mark.parametrize("stored_dtype", ["bfloat16", "float32", "int8"])
def test_the_size_of_adapters_follows_from_the_checkpoint_before_it_is_measured(
    ask: Ask, run: Run, tmp_path: Path, stored_dtype: str
) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("uri,duration\nvideos/short.mp4,6\n")
    found = ask(corpus=str(manifest), stored_dtype=stored_dtype)
    assert not found.is_adapter_size_measured
    run(corpus=str(manifest), stored_dtype=stored_dtype)
    [row] = asdict_of(tmp_path, "select sum(size_bytes) n, count(*) c from adapters")
    assert row["c"] == found.num_segments == 2
    # The files' own headers are what the shapes do not tell.
    assert 0 < row["n"] - found.adapter_bytes < 1000 * row["c"]


def asdict_of(tmp_path: Path, sql: str) -> list[dict[str, Any]]:
    from storage.lake import open_lake

    return open_lake(tmp_path / "lake").query(sql).to_pylist()


def test_a_lake_tells_what_is_done_and_at_which_rates(
    ask: Ask, run: Run, corpus: Path, tmp_path: Path
) -> None:
    run(corpus=str(corpus / "short.mp4"))
    before = tree(tmp_path)
    found = ask(price_per_device_hour=2.0)
    assert tree(tmp_path) == before
    assert (found.num_listed, found.num_todo, found.num_done) == (2, 1, 1)
    assert found.hours_done == pytest.approx(6 / 3600)
    assert (found.num_known, found.num_estimated, found.num_unknown) == (0, 1, 0)
    assert found.hours_estimated > 0
    assert found.num_segments >= 1
    assert found.is_adapter_size_measured
    [rate] = asdict_of(tmp_path, "select device_s_per_video_hour as s from cost_per_video_hour")
    assert found.device_hours == pytest.approx(found.hours_estimated * rate["s"] / 3600, rel=1e-3)
    assert found.cost == pytest.approx(2.0 * (found.device_hours or 0))
    other = ask(stored_dtype="float32")
    assert (other.num_done, other.num_known, other.num_estimated) == (0, 1, 1)
    assert other.device_hours is None


def test_rejects_and_what_a_retry_would_do_are_counted(
    ask: Ask, run: Run, corpus: Path, tmp_path: Path
) -> None:
    (corpus / "text.mp4").write_text("words")
    manifest = tmp_path / "corpus.jsonl"
    names = ("short.mp4", "late.mp4", "text.mp4")
    manifest.write_text("".join(f'{{"uri": "videos/{name}"}}\n' for name in names))
    run(corpus=str(manifest))
    found = ask(corpus=str(manifest))
    assert (found.num_done, found.num_rejected, found.num_retried) == (1, 1, 1)
    assert found.num_todo == 1
    assert ask(corpus="catalog:rejects").num_todo == 1
    named = ask(corpus="catalog:rejects", retry_reasons=["NOT_MEDIA"])
    assert (named.num_todo, named.num_retried) == (1, 1)
    stale = ask(corpus="catalog:videos", stored_dtype="float32")
    assert (stale.num_todo, stale.num_segments) == (2, 3)


def test_the_commands_show_the_same_figures_and_run_the_same_flow(
    call: Call, run: Run, corpus: Path, tmp_path: Path, model: str
) -> None:
    shared = ("--lake", tmp_path / "lake", "--model", model)
    code, out, _ = call("plan", corpus, *shared, "--json")
    assert (code, json.loads(out)["num_todo"]) == (0, 2)
    code, out, _ = call("plan", corpus, *shared)
    assert code == 0
    assert "unknown: nothing measured under this recipe" in out
    assert "unknown: no length is known" in out
    (corpus / "text.mp4").write_text("words")
    run()
    for command in (("retry", "--reason", "NOT_MEDIA"), ("backfill",)):
        code, out, _ = call(*command, *shared, "--dry-run", "--json")
        assert code == 0
        assert set(json.loads(out)) == {"lake", *asdict(dry_run_of(tmp_path, model))}
    assert json.loads(call("retry", *shared, "--dry-run", "--json")[1])["num_todo"] == 0
    code, out, _ = call("retry", "--reason", "NOT_MEDIA", *shared, "--json")
    assert (code, json.loads(out)["shards"]["num_rejects"]) == (0, 1)
    code, out, _ = call("backfill", *shared, "--json")
    assert (code, json.loads(out)["plan"]["num_shards"]) == (0, 0)
    code, _, err = call("retry", "--reason", "LAZY", *shared)
    assert (code, err.count("\n")) == (1, 1)


def dry_run_of(tmp_path: Path, model: str) -> DryRun:
    lake = str(tmp_path / "lake")
    return dry_run(InternalizeConfig(corpus="catalog:videos", lake=lake, model=model))


def test_the_bytes_of_visual_tokens_to_keep_are_those_that_a_run_writes(
    ask: Ask, keep: Run, corpus: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("uri,duration\nvideos/short.mp4,6\n")
    assert ask(corpus=str(manifest)).visual_token_bytes is None
    found = ask(corpus=str(manifest), keep_visual_tokens=True)
    keep(corpus=str(manifest))
    files = (tmp_path / "lake" / "visual_tokens").rglob("*.safetensors")
    written = [load_file(path)["visual_tokens"].nbytes for path in files]
    assert len(written) == found.num_segments == 2
    assert sum(written) == found.visual_token_bytes


def test_a_segment_of_the_500m_takes_a_megabyte_and_a_half_of_visual_tokens() -> None:
    config = load_model_config("smolvlm2-500m", random_weights=True)
    num_tokens, d_model = visual_token_shape(config)
    assert (num_tokens, d_model, config.vlm.dtype) == (64, 960, "bfloat16")
    assert config.segments.num_frames * num_tokens * d_model * 2 == 1_474_560
