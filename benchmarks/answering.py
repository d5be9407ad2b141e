"""Answering many questions: adapters against the video in context, against hooks, merged, mixed.

    .venv/bin/python -m benchmarks.answering --pairs 3 --out answering.json

Two rooms (benchmarks/_question_room.py): a slice of the 500M with random weights at full width, and
the embedded default with real mp4 files. All ways of one measurement take turns in one process on
one thread; a ratio is taken within one turn. Seconds are CPU seconds of this process. Where two
ways must say the same, their ids are compared first, and nothing is timed if they differ.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks._naive_answers import answer_one
from benchmarks._pairs import surroundings
from benchmarks._question_room import Room, embedded_default, random_adapter, slice_of_500m
from benchmarks._turns import Line, Way, lines, turns_table
from video2lora_core.adapter import Adapter
from video2lora_core.answer import (
    answer,
    answer_from_prefix,
    answer_in_context,
    merged,
    read_video,
)
from video2lora_core.compose import concat
from video2lora_core.inject import adapted, target_linears
from video2lora_core.reduction import svd
from video2lora_core.vlm import Vlm, query_ids

RANKS = (16, 32, 64, 208, 528, 1040)
NUM_FORWARDS = 20


def asked(room: Room, count: int) -> tuple[list[str], list[Adapter]]:
    """Return so many questions, going round the videos, and each one's adapter."""
    rows = []
    for number in range(count):
        video = number % len(room.adapters)
        of_video = room.questions[video]
        text = of_video[number // len(room.adapters) % len(of_video)]
        rows.append((text, room.adapters[video]))
    return [text for text, _ in rows], [adapter for _, adapter in rows]


def require_same(what: str, first: Any, second: Any) -> None:
    """End the benchmark where two ways that must say the same do not."""
    if first != second:
        raise SystemExit(f"{what}: answers differ; nothing was timed: correct ours first")


def against_context(
    room: Room, *, num_pairs: int, num_new: int, batches: Sequence[int]
) -> list[Line]:
    """Questions per second: adapters, the frames in context, and the frames' KV cache."""
    known = {"duration_us": room.duration_us}
    prefix = read_video(room.vlm, room.pixels, room.times_us, **known)
    texts = (list(room.questions[0]) * max(batches))[: max(batches)]
    most = 64
    mixed_texts, mixed = asked(room, most)

    def shown(count: int) -> Way:
        return lambda: answer_in_context(
            room.vlm, room.pixels, room.times_us, texts[:count], max_new_tokens=num_new, **known
        )

    def kept(count: int) -> Way:
        return lambda: answer_from_prefix(room.vlm, prefix, texts[:count], max_new_tokens=num_new)

    def injected(count: int) -> Way:
        rows = mixed[:count]
        return lambda: answer(room.vlm, mixed_texts[:count], adapters=rows, max_new_tokens=num_new)

    ways = {f"adapter, {n} a batch": (injected(n), n) for n in (1, most)}
    ways |= {f"in context, {n} a batch": (shown(n), n) for n in batches}
    ways |= {f"KV cache, {n} a batch": (kept(n), n) for n in batches}
    ways |= {
        "reading the video once": (
            lambda: read_video(room.vlm, room.pixels, room.times_us, **known),
            1,
        )
    }
    best = f"adapter, {most} a batch"
    pairs_of = [(name, best) for name in ways if name != best]
    return lines(
        room.name, f"a question, {num_new} new tokens", ways, pairs_of, num_pairs=num_pairs
    )


def against_hooks(room: Room, *, num_pairs: int, num_new: int, num_naive: int) -> list[Line]:
    """64 questions to 16 videos: one mixed batch against one by one with hooks."""
    texts, adapters = asked(room, 64)
    prompts = [query_ids(room.vlm, text) for text in texts]
    widths = {name: (f.a.shape[-1], f.b.shape[-1]) for name, f in adapters[0].factors.items()}
    found = target_linears(room.vlm.model, layers=adapters[0].layers, widths=widths)

    def one(row: int) -> tuple[int, ...]:
        (factors,) = adapters[row].factors.values()
        return answer_one(
            room.vlm.model,
            list(found.values()),
            prompts[row],
            a_LRI=factors.a,
            b_LRO=factors.b,
            scaling=adapters[row].scaling,
            end_id=room.vlm.end_token_id,
            max_new_tokens=num_new,
        )

    def batched() -> list[tuple[int, ...]]:
        said = answer(room.vlm, texts, adapters=adapters, max_new_tokens=num_new)
        return [given.new_ids for given in said]

    def naive() -> list[tuple[int, ...]]:
        return [one(row) for row in range(num_naive)]

    require_same("batched and one by one", batched()[:num_naive], naive())
    names = ("one by one with hooks", "one mixed batch of 64")
    ways = {names[0]: (naive, num_naive), names[1]: (batched, 64)}
    subject = f"64 questions, 16 videos, {num_new} new tokens"
    return lines(room.name, subject, ways, [names], num_pairs=num_pairs)


def by_adapters(room: Room, *, num_pairs: int, num_new: int) -> list[Line]:
    """Batches of 64 questions with 1, 4, 16 and 64 different adapters of rank 32."""
    texts, _ = asked(room, 64)
    pool = [random_adapter(room.vlm, rank=32, seed=seed) for seed in range(64)]

    def ask(count: int) -> Way:
        rows = [pool[row % count] for row in range(64)]
        return lambda: answer(room.vlm, texts, adapters=rows, max_new_tokens=num_new)

    ways: dict[str, tuple[Way, int]] = {
        "no adapter": (lambda: answer(room.vlm, texts, max_new_tokens=num_new), 64)
    }
    ways |= {f"{count} adapters": (ask(count), 64) for count in (1, 4, 16, 64)}
    pairs_of = [(name, "no adapter") for name in ways if name != "no adapter"]
    subject = f"64 rows, {num_new} new tokens"
    return lines(room.name, subject, ways, pairs_of, num_pairs=num_pairs)


def by_rank(room: Room, *, num_pairs: int, num_new: int, num_rows: int = 8) -> list[Line]:
    """Batches of as many adapters as rows, by rank; stacking them is in the time."""
    texts, _ = asked(room, num_rows)

    def ask(rank: int) -> Way:
        rows = [random_adapter(room.vlm, rank=rank, seed=seed) for seed in range(num_rows)]
        return lambda: answer(room.vlm, texts, adapters=rows, max_new_tokens=num_new)

    def blind() -> None:
        answer(room.vlm, texts, max_new_tokens=num_new)

    subject = f"{num_rows} rows, {num_rows} adapters, {num_new} new tokens"
    made: list[Line] = []
    for rank in RANKS:  # one at a time: the adapters of all ranks together are gigabytes
        ways = {"no adapter": (blind, num_rows), f"rank {rank}": (ask(rank), num_rows)}
        named = [(f"rank {rank}", "no adapter")]
        made += lines(room.name, subject, ways, named, num_pairs=num_pairs)
    return made


def by_merging(room: Room, *, num_pairs: int, num_rows: int) -> list[Line]:
    """The target layers alone, one token a row: after how many forwards has merging paid."""
    made: list[Line] = []
    for rank in RANKS:
        turns = [_merging_turn(room.vlm, rank, num_rows) for _ in range(num_pairs)]
        made.append(
            Line(
                room=room.name,
                subject=f"forwards until merging has paid, {num_rows} rows",
                slow=f"rank {rank}",
                fast="merged",
                ratios=tuple(merge_s / max(saved_s, 1e-9) for merge_s, saved_s in turns),
                fast_s=statistics.median(merge_s for merge_s, _ in turns),
            )
        )
    return made


def _merging_turn(vlm: Vlm, rank: int, num_rows: int) -> tuple[float, float]:
    """Return the seconds of merging, and those that it saves in every forward."""
    adapter = random_adapter(vlm, rank=rank, seed=0)
    widths = {name: (f.a.shape[-1], f.b.shape[-1]) for name, f in adapter.factors.items()}
    linears = target_linears(vlm.model, layers=adapter.layers, widths=widths).values()
    x = torch.randn(num_rows, 1, *next(iter(widths.values()))[:1])

    def forward_s() -> float:
        start_s = time.process_time()
        for _ in range(NUM_FORWARDS):
            for linear in linears:
                linear(x)
        return (time.process_time() - start_s) / NUM_FORWARDS

    with torch.no_grad():
        with adapted(vlm.model, adapter):
            injected_s = forward_s()
        start_s = time.process_time()
        with merged(vlm, adapter):
            merge_s = time.process_time() - start_s
            return merge_s, injected_s - forward_s()


def first_tokens(room: Room, *, num_pairs: int) -> list[Line]:
    """Time to the first token, the adapter or the prefix resident, by the video's segments."""
    vlm, (text, *_) = room.vlm, room.questions[0]
    known = {"duration_us": room.duration_us}
    prefix = read_video(vlm, room.pixels, room.times_us, **known)

    def resident(adapter: Adapter) -> Way:
        def ask() -> None:
            with adapted(vlm.model, adapter):
                answer(vlm, [text], max_new_tokens=1)

        return ask

    ways: dict[str, tuple[Way, int]] = {}
    for count in (1, 8, 64):
        parts = [random_adapter(vlm, rank=16, seed=seed) for seed in range(count)]
        whole = concat([_without_bias(part) for part in parts])
        ways[f"{count} segments, svd to rank 16"] = (resident(svd(whole, rank=16)[0]), 1)
        ways[f"{count} segments, concat, rank {whole.rank}"] = (resident(whole), 1)
    ways["KV cache"] = (lambda: answer_from_prefix(vlm, prefix, [text], max_new_tokens=1), 1)
    ways["in context"] = (
        lambda: answer_in_context(
            vlm, room.pixels, room.times_us, [text], max_new_tokens=1, **known
        ),
        1,
    )
    first = "1 segments, svd to rank 16"
    ways[first][0]()
    pairs_of = [(name, first) for name in ways if name != first]
    return lines(room.name, "first token", ways, pairs_of, num_pairs=num_pairs)


def _without_bias(adapter: Adapter) -> Adapter:
    return Adapter(
        factors=adapter.factors,
        layers=adapter.layers,
        scaling=adapter.scaling,
        checkpoint_sha256=adapter.checkpoint_sha256,
    )


def parts_of(num_pairs: int) -> dict[str, Callable[[Room], list[Line]]]:
    """Name the measurements on the slice."""
    return {
        "hooks": lambda room: [
            line
            for num_new in (4, 16)
            for line in against_hooks(room, num_pairs=num_pairs, num_new=num_new, num_naive=16)
        ],
        "mixed": lambda room: by_adapters(room, num_pairs=num_pairs, num_new=4),
        "ranks": lambda room: by_rank(room, num_pairs=num_pairs, num_new=4),
        "merging": lambda room: [
            line
            for num_rows in (1, 16)
            for line in by_merging(room, num_pairs=num_pairs, num_rows=num_rows)
        ],
        "first": lambda room: first_tokens(room, num_pairs=num_pairs),
        "context": lambda room: against_context(
            room, num_pairs=num_pairs, num_new=8, batches=(1, 8)
        ),
    }


def on_embedded_default(room: Room, *, num_pairs: int) -> list[Line]:
    """The tiny model's own ratios, on real videos and questions."""
    return [
        *against_context(room, num_pairs=num_pairs, num_new=24, batches=(1, 16, 64)),
        *against_hooks(room, num_pairs=num_pairs, num_new=24, num_naive=64),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time many questions, in every way of answering.")
    parser.add_argument("--pairs", type=int, default=3, help="turns of each (default: 3)")
    known = [*parts_of(1), "embedded"]
    parser.add_argument("--parts", nargs="+", choices=known, default=known, help="default: all")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    options = parser.parse_args(arguments)
    if options.pairs < 1:
        parser.error("--pairs must be at least 1")
    torch.set_num_threads(1)
    here, made = surroundings(), list[Line]()
    on_slice = [name for name in options.parts if name != "embedded"]
    room = slice_of_500m() if on_slice else None
    for name in on_slice:
        assert room is not None
        made += parts_of(options.pairs)[name](room)
    if "embedded" in options.parts:
        made += on_embedded_default(embedded_default(), num_pairs=options.pairs)
    Console(width=180).print(turns_table(made))
    if options.out:
        measured = here | {"lines": [line.row() for line in made]}
        options.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
