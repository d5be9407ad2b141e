"""Many questions, answered from adapters: against hooks one by one, mixed, by rank, merged.

    .venv/bin/python -m benchmarks.answering --pairs 3 --out answering.json

Two rooms (benchmarks/_question_room.py): two of the 500M's 32 decoder layers with random weights
at full width, and the embedded default with real mp4 files. All ways of one measurement take turns
in one process on one thread; a ratio is taken within one turn. Seconds are CPU seconds of this
process. Where two ways must say the same, their ids are compared first, and nothing is timed if
they differ. The bar: 64 questions to 16 videos in one batch at least 5 times as fast as one by one
with hooks. Answers about the video in context, and first tokens, are in first_token.py.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console

from benchmarks._naive_answers import answer_one
from benchmarks._pairs import surroundings
from benchmarks._question_room import (
    Room,
    asked,
    embedded_default,
    narrow_slice,
    random_adapter,
    slice_of_500m,
)
from benchmarks._turns import Line, Way, lines, turns_table
from benchmarks._verdict import Verdict, at_least, finish, make_parser
from video2lora_core.answer import answer, merged
from video2lora_core.inject import adapted, target_linears
from video2lora_core.vlm import Vlm, query_ids

RANKS = (16, 32, 64, 208, 528, 1040)
NUM_FORWARDS = 100  # a rank of 16 costs one token 20 us a layer
ONE_BY_ONE = "one by one with hooks"


def require_same(what: str, first: Any, second: Any) -> None:
    """End the benchmark where two ways that must say the same do not."""
    if first != second:
        raise SystemExit(f"{what}: answers differ; nothing was timed: correct ours first")


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
    names = (ONE_BY_ONE, "one mixed batch of 64")
    ways = {names[0]: (naive, num_naive), names[1]: (batched, 64)}
    subject = f"64 questions, 16 videos, {num_new} new tokens"
    return lines(room.name, subject, ways, [names], num_pairs=num_pairs)


def by_adapters(room: Room, *, num_pairs: int, num_new: int, num_rows: int) -> list[Line]:
    """Batches of questions with 1, 4, 16 and 64 different adapters of rank 32."""
    texts, _ = asked(room, num_rows)
    pool = [random_adapter(room.vlm, rank=32, seed=seed) for seed in range(num_rows)]
    counts = [count for count in (1, 4, 16, 64) if count <= num_rows]

    def ask(count: int) -> Way:
        rows = [pool[row % count] for row in range(num_rows)]
        return lambda: answer(room.vlm, texts, adapters=rows, max_new_tokens=num_new)

    ways: dict[str, tuple[Way, int]] = {
        "no adapter": (lambda: answer(room.vlm, texts, max_new_tokens=num_new), num_rows)
    }
    ways |= {f"{count} adapters": (ask(count), num_rows) for count in counts}
    pairs_of = [(name, "no adapter") for name in ways if name != "no adapter"]
    subject = f"{num_rows} rows, {num_new} new tokens"
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


def parts_of(*, num_pairs: int, num_rows: int) -> dict[str, Callable[[Room], list[Line]]]:
    """Name the measurements on the slice."""
    return {
        "hooks": lambda room: [
            line
            for num_new in (4, 16)
            for line in against_hooks(room, num_pairs=num_pairs, num_new=num_new, num_naive=16)
        ],
        "mixed": lambda room: by_adapters(room, num_pairs=num_pairs, num_new=4, num_rows=num_rows),
        "ranks": lambda room: by_rank(room, num_pairs=num_pairs, num_new=4),
        "merging": lambda room: [
            line
            for count in (1, 16)
            for line in by_merging(room, num_pairs=num_pairs, num_rows=count)
        ],
    }


def judge(made: Sequence[Line]) -> list[Verdict]:
    """Hold one mixed batch against the bar; short answers are shown beside, and not judged."""
    return [
        at_least(
            f"{line.room}: {line.subject}, one by one with hooks over one batch",
            statistics.median(line.ratios),
            5.0,
            detail=f"{min(line.ratios):.2f} - {max(line.ratios):.2f}",
        )
        for line in made
        if line.slow == ONE_BY_ONE and " 4 new tokens" not in line.subject
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time many questions, answered from adapters.", num_pairs=3)
    known = [*parts_of(num_pairs=1, num_rows=64), "embedded"]
    parser.add_argument("--parts", nargs="+", choices=known, default=known, help="default: all")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here, made = surroundings(), list[Line]()
    parts = parts_of(num_pairs=options.pairs, num_rows=8 if options.quick else 64)
    on_slice = [name for name in options.parts if name != "embedded"]
    if on_slice:
        room = narrow_slice() if options.quick else slice_of_500m(num_frames=1)
        for name in on_slice:
            made += parts[name](room)
    if "embedded" in options.parts:
        small = embedded_default(num_videos=2 if options.quick else 16)
        made += against_hooks(small, num_pairs=options.pairs, num_new=24, num_naive=64)
    Console(width=150).print(turns_table(made))
    shape = {"parts": options.parts, "ranks": RANKS, "rooms": sorted({each.room for each in made})}
    measured = here | {"shape": shape, "lines": [line.row() for line in made]}
    finish(measured, judge(made), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
