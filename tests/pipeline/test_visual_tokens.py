"""Kept visual tokens: a re-run decodes nothing, looks at nothing and makes the same adapters."""

import logging
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from storage.identity import sha256_hex
from storage.lake import Lake, open_lake
from tasks.progress import Event, listening
from tests.pipeline.conftest import write_model
from tests.pipeline.token_runs import (
    NUM_SEGMENTS,
    NUM_VIDEOS,
    Run,
    adapters,
    counting_looks,
    token_files,
    without_tokens,
    work,
)


@pytest.fixture(scope="module")
def other(model_dir: Path) -> str:
    """The same frozen model with another hypernetwork checkpoint."""
    return str(write_model(model_dir, seed=1))


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[], Lake]:
    return lambda: open_lake(tmp_path / "lake")


@pytest.mark.parametrize("change", ["checkpoint", "stored dtype"])
def test_a_second_run_decodes_nothing_looks_at_nothing_and_makes_the_same_adapters(
    run: Run,
    keep: Run,
    lake: Callable[[], Lake],
    model: str,
    other: str,
    tmp_path: Path,
    change: str,
) -> None:
    changed = {"model": other} if change == "checkpoint" else {"stored_dtype": "float32"}
    expected = without_tokens(run, tmp_path, **changed)
    assert work(keep()) == (NUM_VIDEOS, NUM_VIDEOS, 0, NUM_SEGMENTS)
    with counting_looks(changed.get("model", model)) as looks:
        second = keep(**changed)
    assert looks == []
    assert work(second) == (0, 0, NUM_SEGMENTS, NUM_SEGMENTS)
    assert adapters(lake(), second) == expected
    assert len(expected) == NUM_SEGMENTS


def test_the_vision_tower_is_counted_where_it_is_used(keep: Run, model: str) -> None:
    with counting_looks(model) as looks:
        keep()
    assert sorted(looks) == [4, 16]  # four frames a segment, in batches of four segments and one


def test_keeping_changes_no_adapter(
    run: Run, keep: Run, lake: Callable[[], Lake], tmp_path: Path
) -> None:
    kept = keep()
    assert adapters(lake(), kept) == without_tokens(run, tmp_path)


def test_the_rows_of_a_run_from_tokens_are_the_same_but_for_the_time_of_decoding(
    run: Run, keep: Run, lake: Callable[[], Lake], other: str
) -> None:
    keep()
    recipe_id = keep(model=other).plan.recipe_id
    told = {
        "segments": "video_id start_us frame_times_us num_frames num_unique_frames "
        "num_corrupt_frames max_lag_us flags outcome is_done",
        "videos": "video_id duration_us num_segments width_px height_px fps codec container "
        "origin_us uri size_bytes version_token",
    }
    for table, columns in told.items():
        found = lake().table(table).to_pylist()
        ours, theirs = (
            sorted(
                [row[name] for name in columns.split()]
                for row in found
                if (row["recipe_id"] == recipe_id) is is_ours
            )
            for is_ours in (True, False)
        )
        assert ours == theirs != []
    spent = lake().query(
        f"select recipe_id = '{recipe_id}' as recalled, max(decode_s) as most, "
        "from segments group by 1 order by 1"
    )
    assert [row["most"] > 0 for row in spent.to_pylist()] == [True, False]


def test_what_is_not_wanted_is_neither_read_nor_written(
    run: Run, keep: Run, lake: Callable[[], Lake], other: str
) -> None:
    run()
    assert token_files(lake()) == []
    keep(stored_dtype="float32")
    assert len(token_files(lake())) == NUM_SEGMENTS
    assert work(run(model=other)) == (0, NUM_VIDEOS, 0, NUM_SEGMENTS)


@pytest.mark.parametrize("damage", ["a flipped bit", "cut short", "another segment's"])
def test_a_damaged_file_is_as_good_as_none_and_is_replaced(
    run: Run,
    keep: Run,
    lake: Callable[[], Lake],
    other: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    expected = without_tokens(run, tmp_path, model=other)
    keep()
    broken, another = token_files(lake())[1:3]
    good = broken.read_bytes()
    if damage == "a flipped bit":
        broken.write_bytes(good[:-5] + bytes([good[-5] ^ 4]) + good[-4:])
    elif damage == "cut short":
        broken.write_bytes(good[:100])
    else:  # whole, under a name that fits its bytes, but not what it is about
        content = another.read_bytes()
        span = broken.name.partition(".")[0]
        broken.with_name(f"{span}.{sha256_hex(content)}.safetensors").write_bytes(content)
        broken.unlink()
    with caplog.at_level(logging.WARNING):
        second = keep(model=other)
    assert caplog.text.count("is removed") == 1
    assert work(second) == (0, 1, NUM_SEGMENTS - 1, NUM_SEGMENTS)
    assert adapters(lake(), second) == expected
    assert broken.read_bytes() == good


def test_a_half_kept_corpus_is_decoded_only_where_it_lacks(
    run: Run, keep: Run, lake: Callable[[], Lake], other: str, tmp_path: Path
) -> None:
    settings = {"model": other, "batch_segments": 1}
    expected = without_tokens(run, tmp_path, **settings)
    keep(batch_segments=1)
    gone = [path for path in token_files(lake()) if path.name.startswith("4000000-")]
    assert len(gone) == NUM_VIDEOS
    for path in gone:
        path.unlink()
    with counting_looks(other) as looks:
        second = keep(**settings)
    assert looks == [4] * len(gone)
    assert work(second) == (0, NUM_VIDEOS, NUM_SEGMENTS - len(gone), NUM_SEGMENTS)
    # One segment a batch: what a batch holds besides may change the last bits.
    assert adapters(lake(), second) == expected
    assert len(token_files(lake())) == NUM_SEGMENTS


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_that_damage_breaks_off_begins_again_where_it_has_to(
    run: Run,
    keep: Run,
    lake: Callable[[], Lake],
    other: str,
    corpus: Path,
    tmp_path: Path,
    workers: int,
) -> None:
    (corpus / "short.mp4").unlink()
    settings = {"model": other, "batch_segments": 1}
    expected = without_tokens(run, tmp_path, **settings)
    keep(batch_segments=1)
    first, second, third = sorted(token_files(lake()), key=lambda path: int(path.name[:1]))
    first.unlink()
    third.unlink()
    second.write_bytes(b"damaged")  # found when the pass over the first and the third is under way
    summary = keep(**settings, decode={"workers": workers})
    assert work(summary) == (0, 1, 0, 3)
    assert adapters(lake(), summary) == expected


def test_a_batch_may_mix_tokens_and_frames(keep: Run, lake: Callable[[], Lake], other: str) -> None:
    keep()
    token_files(lake())[0].unlink()
    with counting_looks(other) as looks:
        second = keep(model=other)
    assert looks == [4]
    assert work(second)[2:] == (NUM_SEGMENTS - 1, NUM_SEGMENTS)


def test_a_lake_that_takes_no_tokens_gets_its_adapters_and_one_warning(
    keep: Run, lake: Callable[[], Lake], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "visual_tokens").write_text("a file in the place of the folder")
    with caplog.at_level(logging.WARNING):
        assert work(keep())[3] == NUM_SEGMENTS
    assert caplog.text.count("visual tokens: cannot write them") == 1


class StoppedError(Exception):
    """What stands for a kill in these tests."""


def test_a_run_that_is_killed_goes_on_from_the_tokens_of_what_it_had_not_committed(
    run: Run, keep: Run, lake: Callable[[], Lake], tmp_path: Path
) -> None:
    settings = {"batch_segments": 1, "unit_segments": 64}
    expected = without_tokens(run, tmp_path, **settings)

    def stop(event: Event, _count: int) -> None:
        if event == "segments" and len(token_files(lake())) >= 2:
            raise StoppedError

    with pytest.raises(StoppedError), listening(stop):
        keep(**settings)
    num_kept = len(token_files(lake()))
    assert num_kept >= 2
    assert lake().query("select * from adapters_latest").num_rows == 0
    second = keep(**settings)
    assert second.shards.num_segments_recalled == num_kept
    assert adapters(lake(), second) == expected


def test_segments_that_are_rejected_are_not_kept(
    keep: Run, lake: Callable[[], Lake], corpus: Path
) -> None:
    whole = (corpus / "long.mp4").read_bytes()
    (corpus / "long.mp4").write_bytes(whole[: len(whole) // 2])
    summary = keep()
    assert summary.shards.num_rejects > 0
    assert len(token_files(lake())) == summary.shards.num_segments


def test_a_remote_video_whose_tokens_are_kept_is_not_fetched(
    keep: Run, corpus: Path, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("memory")
    for path in corpus.iterdir():
        files.pipe_file(f"/kept/{path.name}", path.read_bytes())
    keep(corpus="memory://kept")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a video was fetched")

    monkeypatch.setattr("tasks.source_file.fetch", refuse)
    second = keep(corpus="memory://kept", model=other)
    assert work(second) == (0, 0, NUM_SEGMENTS, NUM_SEGMENTS)
