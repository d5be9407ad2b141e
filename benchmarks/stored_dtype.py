"""What storing adapters as bfloat16 or int8 costs: bytes, update, logits, answers.

Everything runs on the embedded default and on videos of unseen seeds; float32 adapters are what the
others are compared with. Other ways to make int8 are only rounded, not stored: they say why ours is
one scale per rank row.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._pairs import surroundings
from configs.load import load_model_config
from configs.schema import ModelConfig
from tasks.exam import FIRST_SEED, MAX_NEW_TOKENS, decoded_segments
from tasks.models import LoadedModel, load_model
from video2lora_core.adapter import Adapter, Factors, adapter_bytes, adapter_from_bytes
from video2lora_core.answer import answer
from video2lora_core.compose import concat, with_bias
from video2lora_core.inject import adapted
from video2lora_core.int8 import LEVELS, quantise, restore
from video2lora_core.internalize import internalize
from video2lora_core.shapes_world import Question, ask_all, sample_world
from video2lora_core.vlm import query_ids

SEED = FIRST_SEED + 50_000_000  # beyond every paper of the exam
STORED = ("float32", "bfloat16", "int8")
GROUP = 64
CUTS = [1.0 - step / 40 for step in range(13)]  # of a row's largest number

Rounding = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """A video's float32 adapters and its questions."""

    adapters: tuple[Adapter, ...]
    questions: tuple[Question, ...]


def films(model: LoadedModel, config: ModelConfig, *, num_segments: int, count: int) -> list[Film]:
    made = []
    for number in range(count):
        world = sample_world(SEED + 1000 * num_segments + number, num_scenes=num_segments)
        frames = decoded_segments(world, config, seed=number)
        adapters = internalize(
            model.vlm, model.hypernetwork, frames, checkpoint_sha256=model.checkpoint.sha256
        )
        made.append(Film(adapters=tuple(adapters), questions=tuple(ask_all(world, seed=0))))
    return made


def stored(adapter: Adapter, dtype: str) -> Adapter:
    return adapter_from_bytes(adapter_bytes(adapter, dtype=getattr(torch, dtype)))


def update_error(found: Adapter, exact: Adapter) -> float:
    """Relative Frobenius error over all layers and modules."""
    wrong = whole = 0.0
    for name, factors in exact.factors.items():
        update = factors.b.double().mT @ factors.a.double()
        other = found.factors[name].b.double().mT @ found.factors[name].a.double()
        wrong += float((other - update).square().sum())
        whole += float(update.square().sum())
    return math.sqrt(wrong / whole)


def first_logits(model: LoadedModel, questions: Sequence[Question], adapter: Adapter) -> Tensor:
    """Return the logits of each answer's first token [question, vocab]."""
    rows = []
    with torch.no_grad(), adapted(model.vlm.model, adapter):
        for question in questions:
            ids = torch.tensor([query_ids(model.vlm, question.text)], device=model.vlm.device)
            rows.append(model.vlm.model(input_ids=ids, logits_to_keep=1).logits[0, -1].float())
    return torch.stack(rows)


def compare(model: LoadedModel, made: Sequence[Film]) -> list[dict[str, Any]]:
    """Measure each stored type against float32 on the same films."""
    said: dict[str, list[str]] = {}
    rows = []
    for dtype in STORED:
        errors, gaps, texts = [], [], []
        for film in made:
            exact = concat(film.adapters)
            read = concat([stored(adapter, dtype) for adapter in film.adapters])
            errors.append(update_error(read, exact))
            ready = with_bias(read, model.bias())
            wanted = first_logits(model, film.questions, with_bias(exact, model.bias()))
            gaps.append(float((first_logits(model, film.questions, ready) - wanted).abs().max()))
            given = answer(
                model.vlm,
                [question.text for question in film.questions],
                adapters=ready,
                max_new_tokens=MAX_NEW_TOKENS,
            )
            texts += [one.text.strip() for one in given]
        said[dtype] = texts
        expected = [question.answer for film in made for question in film.questions]
        first = made[0].adapters[0]
        rows.append(
            {
                "stored": dtype,
                "num_segments": len(made[0].adapters),
                "num_questions": len(texts),
                "bytes": len(adapter_bytes(first, dtype=getattr(torch, dtype))),
                "mean_update_error": statistics.mean(errors),
                "max_update_error": max(errors),
                "max_logit_difference": max(gaps),
                "num_answers_changed": sum(map(str.__ne__, texts, said["float32"])),
                "num_right": sum(map(str.__eq__, texts, expected)),
            }
        )
    return rows


def _per_row(factor: Tensor) -> Tensor:
    return restore(*quantise(factor))


def _per_layer(factor: Tensor) -> Tensor:
    return _per_row(factor.flatten(1)).view_as(factor)


def _per_group(factor: Tensor) -> Tensor:
    return _per_row(factor.unflatten(-1, (-1, GROUP))).flatten(-2)


def _best_cut(factor: Tensor) -> Tensor:
    """Cut each row's largest numbers off where that makes the least squared error."""
    best, least = _per_row(factor), torch.full(factor.shape[:-1], torch.inf)
    for cut in CUTS:
        step = cut * factor.abs().amax(dim=-1) / LEVELS
        levels = (factor / step[..., None]).round().clamp(-LEVELS, LEVELS)
        rounded = levels * step[..., None]
        error = (rounded - factor).square().sum(dim=-1)
        best = torch.where((error < least)[..., None], rounded, best)
        least = torch.minimum(error, least)
    return best


# Name, rounding, and how many float32 scales a row of so many numbers needs.
WAYS: tuple[tuple[str, Rounding, Callable[[int], float]], ...] = (
    ("one scale per layer", _per_layer, lambda _: 0.0),
    ("one scale per rank row (ours)", _per_row, lambda _: 1.0),
    ("one per rank row, best cut", _best_cut, lambda _: 1.0),
    (f"one per {GROUP} numbers", _per_group, lambda width: width / GROUP),
)


def wide_adapter() -> Adapter:
    """Return four layers of the 500M's widths with random numbers: long rows, no outliers."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4, 16, 2560, generator=generator)
    b = torch.randn(4, 16, 960, generator=generator)
    return Adapter(
        factors={"down_proj": Factors(a=a, b=b)},
        layers=(0, 1, 2, 3),
        scaling=128.0,
        checkpoint_sha256="0" * 64,
    )


def ways(subject: str, adapters: Sequence[Adapter]) -> list[dict[str, Any]]:
    """Measure the update's error under each way to make int8."""
    rows = []
    for name, rounding, num_scales in WAYS:
        errors = []
        for exact in adapters:
            factors = {
                module: Factors(a=rounding(f.a), b=rounding(f.b))
                for module, f in exact.factors.items()
            }
            errors.append(update_error(replace(exact, factors=factors), exact))
        widths = [f.a.shape[-1] for f in adapters[0].factors.values()]
        widths += [f.b.shape[-1] for f in adapters[0].factors.values()]
        extra = sum(4 * num_scales(width) for width in widths) / sum(widths)
        rows.append(
            {
                "subject": subject,
                "way": name,
                "mean_update_error": statistics.mean(errors),
                "bytes_per_number": 1 + extra,
            }
        )
    return rows


def tables(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[Table]:
    made = []
    for title, content in (("Stored types", rows), ("Ways to make int8", others)):
        shown = Table(title=title)
        for heading in content[0]:
            shown.add_column(heading.replace("_", " "))
        for row in content:
            shown.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
        made.append(shown)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure what the stored type of adapters costs.")
    parser.add_argument("--videos", type=int, default=48, help="of one segment (default: 48)")
    parser.add_argument("--long-videos", type=int, default=16, help="of 8 segments (default: 16)")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    options = parser.parse_args(arguments)
    config = load_model_config("tiny")
    model = load_model(config)
    short = films(model, config, num_segments=1, count=options.videos)
    long = films(model, config, num_segments=8, count=options.long_videos)
    rows = compare(model, short) + compare(model, long)
    others = ways("embedded default", [film.adapters[0] for film in short])
    others += ways("500M's widths, random numbers", [wide_adapter()])
    for shown in tables(rows, others):
        Console(width=160).print(shown)
    if options.out:
        measured = surroundings() | {"stored": rows, "ways": others}
        options.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
