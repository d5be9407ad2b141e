"""The benchmarks of answering: the naive form says what ours says, and every line is measured."""

import ast
import json
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import _question_flops, answer_agreement, answering, first_token
from benchmarks._question_room import Room, in_bfloat16, narrow_slice
from benchmarks._turns import Line, in_turns, turns_table


@pytest.fixture(scope="module")
def room() -> Room:
    return narrow_slice()


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


def test_the_bar_is_for_answers_of_some_length(room: Room) -> None:
    made = [
        Line(
            room=room.name, subject=f"{n} new tokens", slow=slow, fast="b", ratios=(r,), fast_s=1.0
        )
        for n, slow, r in ((16, answering.ONE_BY_ONE, 5.1), (24, answering.ONE_BY_ONE, 4.9))
    ]
    short = Line(
        room=room.name,
        subject="64 questions, 4 new tokens",
        slow=answering.ONE_BY_ONE,
        fast="b",
        ratios=(1.0,),
        fast_s=1.0,
    )
    assert [verdict.is_met for verdict in answering.judge([*made, short])] == [True, False]


def test_adapters_of_one_rank_cost_the_same_operations_for_every_length(room: Room) -> None:
    made, flops = first_token.by_length(room, num_pairs=1)
    assert {line.fast for line in made} == {"1 segments, svd to rank 16"}
    assert len(made) == 4
    lengths, counted = first_token.judge(made, flops)
    assert (counted.found, counted.is_met) == (1.0, True)
    assert lengths.found > 0
    assert flops["64 segments, exact, rank 1024"] > flops["8 segments, exact, rank 128"]
    assert flops["8 segments, exact, rank 128"] > flops["8 segments, svd to rank 16"]


def test_first_and_further_tokens_are_timed_for_every_way(room: Room) -> None:
    made, rates = first_token.by_frames(room, (1, 2), num_pairs=2, num_new=3)
    named = {"KV cache, 1 frames", "KV cache, 2 frames"}
    assert {line.slow for line in made if line.subject == "first token"} == named
    assert {line.slow for line in made if line.subject == "a further token"} == named
    assert set(rates) == {"adapter", *named}
    (shown,) = first_token.in_context(room, {2: 1})
    assert (shown.slow, shown.fast) == ("in context, 2 frames", "adapter")


def test_attention_is_counted_on_the_cpu() -> None:
    q, kv = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 5, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert _question_flops.flops_of(lambda: attend(q, kv, kv)) == 2 * (2 * 2 * 3 * 5 * 4)


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


def test_agreement_counts_every_answer(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_agreement, "MAX_NEW_TOKENS", 2)
    rows = answer_agreement.agreement(room)
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
