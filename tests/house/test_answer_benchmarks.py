"""The benchmarks of answering: the naive form says what ours says, and every line is measured."""

import ast
import json
from typing import Any

import pytest
from rich.console import Console

from benchmarks import answering
from benchmarks._question_room import Room, in_bfloat16, slice_of_500m
from benchmarks._turns import in_turns, turns_table
from benchmarks.answer_agreement import agreement

NARROW = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
    "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
}


@pytest.fixture(scope="module")
def room() -> Room:
    return slice_of_500m(num_layers=1, num_frames=2, num_videos=3, size_px=64, widths=NARROW)


def test_one_by_one_with_hooks_and_a_mixed_batch_say_the_same(room: Room) -> None:
    (line,) = answering.against_hooks(room, num_pairs=1, num_new=2, num_naive=4)
    assert (line.slow, line.fast) == ("one by one with hooks", "one mixed batch of 64")
    row = json.loads(json.dumps(line.row()))
    assert row["median_ratio"] == line.ratios[0] > 0
    console = Console(width=180)
    with console.capture() as captured:
        console.print(turns_table([line]))
    assert "one by one with hooks" in captured.get()


def test_nothing_is_timed_when_the_naive_form_says_something_else(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "answer_one", lambda *_, **__: (1, 2))
    with pytest.raises(SystemExit, match="answers differ"):
        answering.against_hooks(room, num_pairs=1, num_new=2, num_naive=2)


def test_every_way_to_answer_about_a_video_is_timed(room: Room) -> None:
    made = answering.against_context(room, num_pairs=1, num_new=1, batches=(1, 2))
    assert {line.slow for line in made} == {
        "adapter, 1 a batch",
        "in context, 1 a batch",
        "in context, 2 a batch",
        "KV cache, 1 a batch",
        "KV cache, 2 a batch",
        "reading the video once",
    }
    assert {line.fast for line in made} == {"adapter, 64 a batch"}


def test_merging_is_timed_for_every_rank(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "NUM_FORWARDS", 1)
    monkeypatch.setattr(answering, "RANKS", (2, 3))
    made = answering.by_merging(room, num_pairs=1, num_rows=1)
    assert [line.slow for line in made] == ["rank 2", "rank 3"]
    assert all(line.fast_s > 0 for line in made)
    ranks = answering.by_rank(room, num_pairs=1, num_new=1, num_rows=2)
    assert [line.slow for line in ranks] == ["rank 2", "rank 3"]


def test_ways_take_turns_and_seconds_are_per_unit() -> None:
    called: list[str] = []
    ways = {name: ((lambda name=name: called.append(name)), 4) for name in "abc"}
    seconds = in_turns(ways, num_pairs=3)
    assert "".join(called) == "abccbaabc"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_agreement_counts_every_answer(room: Room) -> None:
    rows = agreement(room)
    assert len(rows) == 6
    assert [row["num_answers"] for row in rows] == [12, 12, 12, 12, 12, 4]
    for row in rows:
        if row["way"].startswith("float32"):
            assert row["share"] == 1.0
    assert {p.dtype for p in in_bfloat16(room.vlm).model.parameters()} != {room.vlm.dtype}


def test_the_naive_answers_share_no_code_with_ours(sources: list[Any]) -> None:
    (naive,) = [source for source in sources if source.name == "benchmarks/_naive_answers.py"]
    modules = [n.module or "" for n in ast.walk(naive.tree) if isinstance(n, ast.ImportFrom)]
    modules += [a.name for n in ast.walk(naive.tree) if isinstance(n, ast.Import) for a in n.names]
    assert {name.split(".")[0] for name in modules} == {"collections", "torch", "typing"}
