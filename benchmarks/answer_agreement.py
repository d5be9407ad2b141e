"""Do all ways of answering say the same: batched, merged and bfloat16 against one by one.

    .venv/bin/python -m benchmarks.answer_agreement --videos 24 --long-videos 6 --out agreement.json

The embedded default answers real questions about real mp4 files of unseen seeds. What the others
are compared with: float32, one question at a time, its one adapter injected. The last column
compares answers from a video read once with answers in context, both in float32.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks._pairs import surroundings
from benchmarks._question_room import Room, embedded_default, in_bfloat16
from video2lora_core.answer import (
    answer,
    answer_from_prefix,
    answer_in_context,
    merged,
    read_video,
)
from video2lora_core.answer_plan import plan_batches
from video2lora_core.vlm import Vlm, query_ids

MAX_NEW_TOKENS = 24
MAX_ROWS = 64
Ids = list[tuple[int, ...]]


def one_by_one(room: Room, vlm: Vlm) -> Ids:
    """Ask each question alone."""
    return [
        answer(vlm, [question], adapters=adapter, max_new_tokens=MAX_NEW_TOKENS)[0].new_ids
        for adapter, questions in zip(room.adapters, room.questions, strict=True)
        for question in questions
    ]


def mixed(room: Room, vlm: Vlm) -> Ids:
    """Ask all questions in planned batches of different adapters."""
    asked = [
        (question, adapter)
        for adapter, questions in zip(room.adapters, room.questions, strict=True)
        for question in questions
    ]
    rows = [(len(query_ids(vlm, question)), adapter.rank) for question, adapter in asked]
    said: dict[int, tuple[int, ...]] = {}
    for batch in plan_batches(rows, max_rows=MAX_ROWS):
        questions, adapters = zip(*(asked[row] for row in batch), strict=True)
        found = answer(vlm, questions, adapters=adapters, max_new_tokens=MAX_NEW_TOKENS)
        said |= {row: one.new_ids for row, one in zip(batch, found, strict=True)}
    return [said[row] for row in range(len(rows))]


def from_merged(room: Room, vlm: Vlm) -> Ids:
    """Ask each video's questions of its merged weights."""
    said: Ids = []
    for adapter, questions in zip(room.adapters, room.questions, strict=True):
        with merged(vlm, adapter):
            found = answer(vlm, questions, max_new_tokens=MAX_NEW_TOKENS)
        said += [one.new_ids for one in found]
    return said


def from_frames(room: Room, vlm: Vlm) -> tuple[Ids, Ids]:
    """Ask the first video's questions in context, and of a prefix read once."""
    questions = room.questions[0]
    known = {"duration_us": room.duration_us}
    shown = answer_in_context(
        vlm, room.pixels, room.times_us, questions, max_new_tokens=MAX_NEW_TOKENS, **known
    )
    prefix = read_video(vlm, room.pixels, room.times_us, **known)
    kept = answer_from_prefix(vlm, prefix, questions, max_new_tokens=MAX_NEW_TOKENS)
    return [one.new_ids for one in shown], [one.new_ids for one in kept]


def agreement(room: Room) -> list[dict[str, Any]]:
    """Count equal answers of each way."""
    half = in_bfloat16(room.vlm)
    half_room = replace(room, adapters=tuple(one.to(dtype=torch.bfloat16) for one in room.adapters))
    wanted = one_by_one(room, room.vlm)
    ways: dict[str, Callable[[], Ids]] = {
        "float32, batched, mixed adapters": lambda: mixed(room, room.vlm),
        "float32, merged, batched": lambda: from_merged(room, room.vlm),
        "bfloat16, one by one": lambda: one_by_one(half_room, half),
        "bfloat16, batched, mixed adapters": lambda: mixed(half_room, half),
        "bfloat16, merged, batched": lambda: from_merged(room, half),
    }
    rows = [_row(room, way, run(), wanted) for way, run in ways.items()]
    shown, kept = from_frames(room, room.vlm)
    return [*rows, _row(room, "float32, KV cache against in context", kept, shown)]


def _row(room: Room, way: str, found: Ids, wanted: Ids) -> dict[str, Any]:
    equal = sum(a == b for a, b in zip(found, wanted, strict=True))
    return {
        "room": room.name,
        "way": way,
        "num_answers": len(wanted),
        "num_equal": equal,
        "share": equal / len(wanted),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare the answers of all ways of answering.")
    parser.add_argument("--videos", type=int, default=24, help="of one segment (default: 24)")
    parser.add_argument("--long-videos", type=int, default=6, help="of 8 segments (default: 6)")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    options = parser.parse_args(arguments)
    if min(options.videos, options.long_videos) < 1:
        parser.error("--videos and --long-videos must be at least 1")
    torch.set_num_threads(1)
    rows = agreement(embedded_default(num_videos=options.videos))
    rows += agreement(embedded_default(num_videos=options.long_videos, num_segments=8))
    table = Table(title="Equal answers")
    for heading in rows[0]:
        table.add_column(heading.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=120).print(table)
    if options.out:
        measured = surroundings() | {"agreement": rows}
        options.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
