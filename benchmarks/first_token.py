"""The first token and the next ones: adapters, the video in context, and its KV cache.

    .venv/bin/python -m benchmarks.first_token --pairs 5 --out first_token.json

Timed on two of the 500M's 32 decoder layers and one of its 12 vision layers at full width, random
weights, one question at a time, float32: the first token with adapter or KV cache resident, and
each further token, (time of some new tokens - time of one) / (some - 1). A slice has all of the
vocabulary's layer, so its ratios are not the whole model's: the whole models are counted instead
(_question_flops.py). Beyond 8,192 positions, which 256 frames are, the real model cannot read at
all; keys and values of that many are random here, and only being asked is timed.

The bars: at a fixed rank, adapters of videos of 1, 8 and 64 segments give their first token in the
same time (at most 1.1 times) and for the same operations.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks._pairs import seconds_of, surroundings
from benchmarks._question_flops import count_whole_model, flops_of, flops_table
from benchmarks._question_room import Room, narrow_slice, random_adapter, slice_of_500m
from benchmarks._turns import Line, Way, lines, turns_table
from benchmarks._verdict import Verdict, at_most, finish, make_parser
from video2lora_core.adapter import Adapter
from video2lora_core.answer import VideoPrefix, answer, answer_from_prefix, answer_in_context
from video2lora_core.compose import concat
from video2lora_core.inject import adapted
from video2lora_core.reduction import svd
from video2lora_core.vlm import Vlm, video_prefix_ids

SEGMENTS = (1, 8, 64)
RANK = 16
STEP_US = 2_500_000  # 12 frames in 30 s
CALLS = 8  # first tokens from adapters in one timing: one takes 30 ms
IN_CONTEXT = {12: 3, 64: 1}  # frames, and turns: 64 take half a minute each


def video(vlm: Vlm, num_segments: int) -> Adapter:
    """Sum random segment adapters exactly, as a video's are; the bias is not part of it."""
    parts = [
        random_adapter(vlm, rank=RANK, seed=seed, has_bias=False) for seed in range(num_segments)
    ]
    return concat(parts)


def resident(vlm: Vlm, adapter: Adapter, text: str, num_new: int) -> None:
    """Ask a model that gets an adapter from memory."""
    with adapted(vlm.model, adapter):
        answer(vlm, [text], max_new_tokens=num_new)


def by_length(room: Room, *, num_pairs: int) -> tuple[list[Line], dict[str, int]]:
    """Time and count the first token by the video's length, its adapter reduced or exact."""
    vlm, text = room.vlm, room.questions[0][0]
    ways: dict[str, tuple[Way, int]] = {}
    flops: dict[str, int] = {}
    for count in SEGMENTS:
        whole = video(vlm, count)
        adapters = {f"{count} segments, svd to rank {RANK}": svd(whole, rank=RANK)[0]}
        if count > 1:
            adapters[f"{count} segments, exact, rank {whole.rank}"] = whole
        for name, adapter in adapters.items():
            ask = partial(resident, vlm, adapter, text, 1)
            flops[name] = flops_of(ask)
            ways[name] = (partial(_repeat, ask), CALLS)
    first = next(iter(ways))
    others = [(name, first) for name in ways if name != first]
    return lines(room.name, "first token", ways, others, num_pairs=num_pairs), flops


def _repeat(run: Callable[[], None]) -> None:
    for _ in range(CALLS):
        run()


def random_prefix(vlm: Vlm, num_frames: int) -> VideoPrefix:
    """Return the KV cache of a video that nobody read: what it holds costs what any other does."""
    text = vlm.model.config.text_config
    times_us = times_of(num_frames)
    ids = tuple(video_prefix_ids(vlm, times_us, num_frames * STEP_US))
    generator = torch.Generator().manual_seed(num_frames)
    shape = (1, text.num_key_value_heads, len(ids), text.head_dim)
    layers = tuple(
        (torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))
        for _ in range(text.num_hidden_layers)
    )
    return VideoPrefix(
        ids=ids,
        times_us=times_us,
        duration_us=num_frames * STEP_US,
        weights_sha256=vlm.weights_sha256,
        layers=layers,
    )


def times_of(num_frames: int) -> tuple[int, ...]:
    return tuple(STEP_US * frame + STEP_US // 2 for frame in range(num_frames))


def asking(room: Room, frames: Sequence[int]) -> dict[str, Callable[[int], object]]:
    """Return how one question is asked with everything resident, given the new tokens wanted."""
    vlm, text = room.vlm, room.questions[0][0]

    def cached(num_frames: int) -> Callable[[int], object]:
        prefix = random_prefix(vlm, num_frames)
        return lambda num_new: answer_from_prefix(vlm, prefix, [text], max_new_tokens=num_new)

    asked: dict[str, Callable[[int], object]] = {
        "adapter": partial(resident, vlm, room.adapters[0], text)
    }
    return asked | {f"KV cache, {count} frames": cached(count) for count in frames}


def by_frames(
    room: Room, frames: Sequence[int], *, num_pairs: int, num_new: int
) -> tuple[list[Line], dict[str, float]]:
    """Time the first token and each further one by the frames in the KV cache."""
    found: dict[str, dict[str, list[float]]] = {"first token": {}, "a further token": {}}
    ways = list(asking(room, frames).items())
    for name, ask in ways:
        ask(1)
        for part in found.values():
            part[name] = []
    for _ in range(num_pairs):
        for name, ask in ways:
            one_s, many_s = (seconds_of(partial(ask, count)) for count in (1, num_new))
            found["first token"][name].append(one_s)
            found["a further token"][name].append((many_s - one_s) / (num_new - 1))
        ways.reverse()
    made = [
        Line(
            room=room.name,
            subject=subject,
            slow=name,
            fast="adapter",
            ratios=tuple(s / f for s, f in zip(each, seconds["adapter"], strict=True)),
            fast_s=statistics.median(seconds["adapter"]),
        )
        for subject, seconds in found.items()
        for name, each in seconds.items()
        if name != "adapter"
    ]
    steps = found["a further token"].items()
    return made, {name: 1 / statistics.median(each) for name, each in steps}


def in_context(room: Room, turns_of: Mapping[int, int]) -> list[Line]:
    """Time the first token with the frames in the prompt, which are looked at anew."""
    vlm, text = room.vlm, room.questions[0][0]
    size_px = vlm.pixel_spec.size_px
    made: list[Line] = []
    for num_frames, num_turns in turns_of.items():
        shape = (num_frames, 3, size_px, size_px)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        show = partial(
            answer_in_context,
            vlm,
            pixels,
            times_of(num_frames),
            [text],
            duration_us=num_frames * STEP_US,
            max_new_tokens=1,
        )
        ask = partial(_repeat, partial(resident, vlm, room.adapters[0], text, 1))
        name = f"in context, {num_frames} frames"
        ways: dict[str, tuple[Way, int]] = {name: (show, 1), "adapter": (ask, CALLS)}
        made += lines(room.name, "first token", ways, [(name, "adapter")], num_pairs=num_turns)
    return made


def points(made: Sequence[Line]) -> list[dict[str, Any]]:
    """Return seconds to the first token by way and frames; an adapter's are the same for all."""
    rows = []
    for line in made:
        way, _, frames = line.slow.partition(", ")
        if line.subject == "first token" and frames.endswith(" frames"):
            num_frames = int(frames.split()[0])
            seconds = [ratio * line.fast_s for ratio in line.ratios]
            rows += [
                {"way": way, "num_frames": num_frames, "seconds": seconds},
                {"way": line.fast, "num_frames": num_frames, "seconds": [line.fast_s]},
            ]
    return rows


def judge(length_lines: Sequence[Line], flops: Mapping[str, int]) -> list[Verdict]:
    """Hold adapters of one rank against each other."""
    fixed = {
        line.slow: statistics.median(line.ratios) for line in length_lines if "svd" in line.slow
    }
    counted = [count for name, count in flops.items() if "svd" in name]
    shown = ", ".join(f"{name.split(',')[0]} {ratio:.3f}" for name, ratio in fixed.items())
    return [
        at_most("first token at rank 16, over 1 segment", max(fixed.values()), 1.1, detail=shown),
        at_most(
            "the same, operations counted",
            max(counted) / min(counted),
            1.0,
            detail=f"{counted[0] / 1e9:.2f} GFLOP",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time first tokens and further ones.", num_pairs=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    room = narrow_slice(num_videos=1) if options.quick else slice_of_500m(num_videos=1)
    frames = (1, 2) if options.quick else (12, 64, 256)
    length_lines, flops = by_length(room, num_pairs=2 * options.pairs)
    frame_lines, rates = by_frames(room, frames, num_pairs=options.pairs, num_new=17)
    made = length_lines + frame_lines
    made += in_context(room, {1: 1} if options.quick else IN_CONTEXT)
    counted = [] if options.quick else count_whole_model((12, 64, 256))
    console = Console(width=150)
    console.print(turns_table(made))
    if counted:
        console.print(flops_table(counted))
    measured = here | {
        "shape": {"room": room.name, "frames": frames, "segments": SEGMENTS, "rank": RANK},
        "first_token": points(made),
        "lines": [line.row() for line in made],
        "tokens_per_cpu_s": rates,
        "flops_by_length": flops,
        "whole_models": counted,
    }
    finish(measured, judge(length_lines, flops), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
