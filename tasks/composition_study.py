"""How well long videos are answered: number of segments x strategy x method x rank budget.

    python -m tasks.composition_study --model tiny      (make composition)

writes docs/composition.json, .png and .md. Everything is the product's own path: H.264 files of
unseen seeds, decoded and internalized; adapters go through their stored bytes. One long video
serves every number of segments: its first 1, 2, 4, ... segments are asked about.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Final

import torch

from configs.load import load_model_config
from configs.schema import ModelConfig
from tasks.composition_page import write_page
from tasks.exam import decoded_segments
from tasks.models import LoadedModel, load_model
from video2lora_core.adapter import Adapter, adapter_bytes, adapter_from_bytes
from video2lora_core.answer import answer
from video2lora_core.compose import concat, svd, top_k, with_bias
from video2lora_core.internalize import internalize
from video2lora_core.routing import NUM_COMPOSED, answer_routed, most_relevant, segment_relevance
from video2lora_core.shapes_world import Question, World
from video2lora_core.shapes_world.long_world import ask_long, sample_long_world

FIRST_SEED: Final = 970_000_000_000_000  # training seeds stay below 2^46
NUM_SEGMENTS: Final = (1, 2, 4, 8, 16, 31)
SPAN_SEGMENTS: Final = 2
BUDGETS: Final = (
    ("concat", None),
    ("svd", 16),
    ("svd", 8),
    ("svd", 4),
    ("top_k", 16),
    ("top_k", 8),
)
ROUTED: Final = (1, 2, NUM_COMPOSED, 8, 12)
MAX_NEW_TOKENS: Final = 8
DOCS: Final = Path(__file__).parent.parent / "docs"

Cell = tuple[str, int, str]
"""Who answered, how many segments, and what kind of question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LongVideo:
    """A long video's world and its segments' adapters, as stored, without the bias."""

    world: World
    adapters: tuple[Adapter, ...]


def watch_long_video(number: int, model: LoadedModel, config: ModelConfig) -> LongVideo:
    """Render, decode and internalize one long video."""
    world = sample_long_world(FIRST_SEED + number, num_scenes=max(NUM_SEGMENTS))
    frames = decoded_segments(world, config, seed=number)
    made = internalize(
        model.vlm, model.hypernetwork, frames, checkpoint_sha256=model.checkpoint.sha256
    )
    stored = tuple(adapter_from_bytes(adapter_bytes(adapter)) for adapter in made)
    return LongVideo(world=world, adapters=stored)


def sit(video: LongVideo, count: int, model: LoadedModel) -> Iterator[tuple[str, str, bool]]:
    """Yield (who answered, kind of question, right or not) for a video's first `count` segments."""
    questions = ask_long(video.world, num_scenes=count, seed=0)
    adapters = video.adapters[:count]
    for name, reply in _repliers(model, adapters):
        for question in questions:
            yield name, question.kind, reply(question) == question.answer
    for question in questions:
        if question.scene is not None:
            start = max(0, min(question.scene, count - SPAN_SEGMENTS))
            span = adapters[start : start + SPAN_SEGMENTS]
            said = _text(model, question, concat(span))
            yield "span", question.kind, said == question.answer


def _repliers(
    model: LoadedModel, adapters: Sequence[Adapter]
) -> Iterator[tuple[str, Callable[[Question], str]]]:
    whole = concat(adapters)
    for method, rank in BUDGETS:
        reduced = _reduced(whole, method, rank)
        name = "compose" if rank is None else f"compose, {method} {rank}"
        yield name, lambda q, reduced=reduced: _text(model, q, reduced)  # type: ignore[misc]
    yield "right segment alone", lambda q: _text(model, q, adapters[q.scene or 0])
    yield "blind", lambda q: answer(model.vlm, [q.text], max_new_tokens=MAX_NEW_TOKENS)[0].text
    relevance: dict[str, tuple[float, ...]] = {}

    def routed(question: Question, num: int, rank: int | None = None) -> str:
        if question.text not in relevance:
            relevance[question.text] = segment_relevance(
                model.vlm, question.text, adapters, bias=model.bias(), max_new_tokens=MAX_NEW_TOKENS
            )
        chosen = most_relevant(relevance[question.text], num)
        composition = concat([adapters[place] for place in chosen])
        return _text(model, question, _reduced(composition, "svd", rank))

    for num in ROUTED:
        name = "route" if num == 1 else f"route-compose {num}"
        yield name, lambda q, num=num: routed(q, num)  # type: ignore[misc]
    for rank in (16, 8):
        name = f"route-compose {NUM_COMPOSED}, svd {rank}"
        yield name, lambda q, rank=rank: routed(q, NUM_COMPOSED, rank)  # type: ignore[misc]


def _reduced(adapter: Adapter, method: str, rank: int | None) -> Adapter:
    if rank is None:
        return adapter
    return (svd if method == "svd" else top_k)(adapter, rank=rank)[0]


def _text(model: LoadedModel, question: Question, composition: Adapter) -> str:
    injected = with_bias(composition, model.bias())
    given = answer(model.vlm, [question.text], adapters=injected, max_new_tokens=MAX_NEW_TOKENS)
    return given[0].text


def check_default(video: LongVideo, model: LoadedModel) -> bool:
    """Say whether the product's own entry gives what the study's row of that name gives."""
    rows = dict(_repliers(model, video.adapters))
    return all(
        rows[f"route-compose {NUM_COMPOSED}"](question)
        == answer_routed(
            model.vlm,
            question.text,
            video.adapters,
            bias=model.bias(),
            max_new_tokens=MAX_NEW_TOKENS,
        ).answer.text
        for question in ask_long(video.world, num_scenes=len(video.adapters), seed=0)
    )


def study(config: ModelConfig, *, num_videos: int) -> dict[str, Any]:
    """Run every cell over `num_videos` long videos and return the shares of right answers."""
    model = load_model(config)
    torch.set_num_threads(1)
    hits: dict[Cell, list[bool]] = defaultdict(list)
    for number in range(num_videos):
        video = watch_long_video(number, model, config)
        if number == 0 and not check_default(video, model):
            raise RuntimeError("composition study: the product answers otherwise than the study")
        for count in NUM_SEGMENTS:
            for name, kind, is_right in sit(video, count, model):
                hits[name, count, kind].append(is_right)
                hits[name, count, "object"].append(is_right)
        sys.stderr.write(f"composition study: {number + 1} of {num_videos} videos\n")
    return {
        "checkpoint_sha256": model.checkpoint.sha256,
        "num_videos": num_videos,
        "num_segments": list(NUM_SEGMENTS),
        "num_composed": NUM_COMPOSED,
        "cells": [
            {"name": name, "num_segments": count, "kind": kind, **_share(found)}
            for (name, count, kind), found in hits.items()
        ],
    }


def _share(found: Sequence[bool]) -> dict[str, float]:
    share = sum(found) / len(found)
    error = sqrt(share * (1 - share) / len(found))
    return {
        "percent": round(100 * share, 1),
        "standard_error": round(100 * error, 2),
        "num_questions": len(found),
    }


def main() -> None:
    """Parse the command line, run the study, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="tiny", help="a name of configs/models")
    parser.add_argument("--videos", type=int, default=64, help="long videos")
    parser.add_argument("--out", type=Path, default=DOCS, help="where composition.* go")
    parser.add_argument("--page-only", action="store_true", help="write the page again")
    given = parser.parse_args()
    figures = given.out / "composition.json"
    if not given.page_only:
        results = study(load_model_config(given.model), num_videos=given.videos)
        figures.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(json.loads(figures.read_text(encoding="utf-8")), given.out)


if __name__ == "__main__":
    main()
