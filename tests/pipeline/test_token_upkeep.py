"""Kept visual tokens in a lake's upkeep, and in the flow inside a shard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.identity import sha256_hex
from storage.keeper import Keeper
from storage.lake import Lake, open_lake
from storage.object_store import LocalObjectStore
from tasks.kept_tokens import KeptTokens
from tasks.sight import Sight, make_sight
from tests.pipeline.shard_fakes import SEGMENT_US, Film, World, threads_left, within
from tests.pipeline.test_shard_work import films
from tests.pipeline.token_runs import (
    NUM_SEGMENTS,
    NUM_VIDEOS,
    Run,
    recipe_of,
    token_files,
    variant,
    work,
)
from video2lora_core.visual_tokens import SeenSegment


@pytest.fixture
def lake(tmp_path: Path) -> Callable[[], Lake]:
    return lambda: open_lake(tmp_path / "lake")


def test_a_deleted_videos_tokens_go_and_those_of_a_late_unit_too(
    keep: Run, lake: Callable[[], Lake]
) -> None:
    keep()
    video_id = lake().resolve_video("short.mp4")
    (late, *_) = [path for path in token_files(lake()) if video_id in path.parts]
    data = late.read_bytes()
    removed = Keeper(lake()).delete_video(video_id)
    assert removed.num_visual_tokens == 2
    assert len(token_files(lake())) == NUM_SEGMENTS - 2
    late.write_bytes(data)
    assert Keeper(lake()).collect_garbage().num_visual_tokens == 1
    assert not late.exists()


def test_gc_deletes_one_sight_by_its_first_digits_and_leaves_the_others(
    call: Any, keep: Run, lake: Callable[[], Lake], model: str, tmp_path: Path
) -> None:
    keep()
    pil = variant(model, "pil", pixels={"longest_edge_px": 32, "size_px": 32, "resize": "pil"})
    keep(model=pil)
    sight_id = make_sight(recipe_of(model)).sight_id
    assert len(token_files(lake())) == 2 * NUM_SEGMENTS
    where = ("--lake", tmp_path / "lake")
    code, _, err = call("gc", "--visual-tokens", "0" * 64, *where)
    assert (code, err.count("(random)")) == (1, 2)
    code, out, _ = call("gc", "--visual-tokens", sight_id[:10], "--dry-run", *where)
    assert (code, len(token_files(lake()))) == (0, 2 * NUM_SEGMENTS)
    assert f"visual_tokens {NUM_SEGMENTS}" in out
    assert call("gc", "--visual-tokens", sight_id[:10], *where)[0] == 0
    assert len(token_files(lake())) == NUM_SEGMENTS
    assert not any(sight_id in path.parts for path in token_files(lake()))
    assert call("gc", "--visual-tokens", "all", *where)[0] == 0
    assert token_files(lake()) == []
    assert work(keep(stored_dtype="float32")) == (0, NUM_VIDEOS, 0, NUM_SEGMENTS)


def test_verify_counts_tokens_and_names_a_changed_one(
    call: Any, keep: Run, lake: Callable[[], Lake], tmp_path: Path
) -> None:
    keep()
    where = ("--lake", tmp_path / "lake")
    code, out, _ = call("verify", *where)
    assert (code, f"visual_tokens {NUM_SEGMENTS}" in out) == (0, True)
    broken = token_files(lake())[0]
    broken.write_bytes(broken.read_bytes()[:-1] + b"!")
    code, out, _ = call("verify", *where)
    assert code == 1
    assert "visual_tokens_changed" in out
    assert call("verify", "--quick", *where)[0] == 0


class FakeTokens(KeptTokens):
    """Real files, which a test may make vanish between looking and reading."""

    def __init__(self, directory: Path, *, lost: frozenset[int] = frozenset()) -> None:
        content: dict[str, Any] = {"what": "fake"}
        sight = Sight(sight_id=sha256_hex(b"fake"), content=content)
        super().__init__(LocalObjectStore(directory), sight, model_name="fake")
        self.lost = lost

    def get(self, file: Any) -> SeenSegment | None:
        return None if file.start_us // SEGMENT_US in self.lost else super().get(file)


@given(
    films=films(),
    unit=st.integers(1, 6),
    ahead=st.integers(0, 8),
    batch=st.integers(1, 6),
    workers=st.integers(1, 4),
    lost=st.frozensets(st.integers(0, 11)),
)
def test_tokens_that_vanish_are_decoded_in_order_and_nothing_gets_stuck(
    tmp_path_factory: pytest.TempPathFactory,
    films: list[Film],
    unit: int,
    ahead: int,
    batch: int,
    workers: int,
    lost: frozenset[int],
) -> None:
    directory = tmp_path_factory.mktemp("films")
    settings = {"unit": unit, "ahead": ahead, "batch": batch, "workers": workers}
    first = World(directory, films, **settings)
    first.tokens = FakeTokens(directory)
    within(60, first.run)
    second = World(directory, films, **settings)
    second.tokens = FakeTokens(directory, lost=lost)
    summary = within(60, second.run)
    expected = second.expected()
    assert second.lake.segments == expected == first.lake.segments
    made = [start_us for (_, start_us), (_, outcome) in expected.items() if outcome == "adapter"]
    num_kept = sum(start_us // SEGMENT_US not in lost for start_us in made)
    assert (summary.num_segments_recalled, summary.num_segments) == (num_kept, len(made))
    assert second.most_at_risk <= unit + ahead
    assert threads_left() == []
