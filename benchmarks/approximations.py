"""What each approximation costs in right answers, and what it saves: the embedded default, paired.

    .venv/bin/python -m benchmarks.approximations --out approximations.json

Every option goes the product's way over the same mp4 files of unseen seeds: its recipe, its reader,
the quality gate, stored bytes, answers from those bytes. A difference is of the same questions, and
its 95% interval resamples videos. CPU time is that of decoding and internalizing, in turns.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks._pairs import surroundings
from benchmarks._segment_flops import segment_flops
from benchmarks._turns import in_turns
from benchmarks._verdict import finish, make_parser
from configs.schema import DecodeConfig, InternalizeConfig
from tasks.exam import Candidate, Paper, exam_world, marks_of, papers
from tasks.internalize_batch import MadeAdapter, internalize_batch
from tasks.known import plan_segments
from tasks.models import LoadedModel, load_model
from tasks.recipe import make_recipe
from tasks.video_reader import InProcessReader
from video2lora_core.adapter import Adapter, adapter_from_bytes
from video2lora_core.bootstrap import paired_difference
from video2lora_core.frames import SegmentFrames
from video2lora_core.shapes_world import Question, World
from video2lora_core.shapes_world.video_files import write_mp4

DEFAULT, KEYFRAMES = "default", "frames: keyframes"
# One line per option: what a run config says, the rest left at its defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "int8": {"stored_dtype": "int8"},
    "top_ranks: 6": {"approximations": {"top_ranks": 6}},
    "top_ranks: 4": {"approximations": {"top_ranks": 4}},
    "top_ranks: 2": {"approximations": {"top_ranks": 2}},
    "top_ranks: 4, int8": {"approximations": {"top_ranks": 4}, "stored_dtype": "int8"},
    "vision_px: 24": {"approximations": {"vision_px": 24}},
    KEYFRAMES: {"approximations": {"frames": "keyframes"}},
}
PAPERS = ("one segment", "2 segments, mixed", "8 segments, mixed")
KINDS = ("motion", "order")  # shown by themselves; the JSON has all
KEY_FRAME_EVERY = (2, 4, 8)  # of 8 frames a second, of which every fourth is shown
FULL_SHAPE, SIDES_PX = "smolvlm2-500m", (512, 384)
NUM_TIMED = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Film:
    """A video file of a paper and its questions."""

    path: Path
    world: World
    questions: tuple[Question, ...]


class Way:
    """One option: the recipe it makes, and the way from a file to stored bytes under it."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        decode = DecodeConfig(workers=0)
        self.config = InternalizeConfig(corpus="films", lake="none", decode=decode, **given)
        self.recipe = make_recipe(self.config)
        self.model: LoadedModel = load_model(self.recipe.model)
        self.reader = InProcessReader(
            model=self.recipe.model,
            decoder=self.config.decoder,
            limits=decode,
            sampling=self.config.approximations.frames,
        )
        self.num_rejects = 0

    def store(self, path: Path) -> list[bytes]:
        """Decode a file and make its adapters' bytes; rejects are counted and left out."""
        duration_us = self.reader.meet(path, is_hashed=True).probe.duration_us
        segments = plan_segments(duration_us, self.recipe.model.segments)
        frames = [f for f in self.reader.decode(path, segments) if isinstance(f, SegmentFrames)]
        made = internalize_batch(
            self.model,
            self.recipe,
            frames,
            stored_dtype=self.config.stored_dtype,
            top_ranks=self.config.approximations.top_ranks,
        )
        stored = [one.data for one in made if isinstance(one, MadeAdapter)]
        self.num_rejects += len(segments) - len(stored)
        return stored

    def adapters(self, film: Film) -> tuple[Adapter, ...]:
        """Read back what is stored of a film."""
        return tuple(map(adapter_from_bytes, self.store(film.path)))


def films_of(paper: Paper, folder: Path, *, key_frame_every: int | None = None) -> list[Film]:
    """Write a paper's videos."""
    made = []
    for number in range(paper.num_videos):
        world, questions = exam_world(paper, number)
        path = folder / f"{key_frame_every}-{paper.seed}-{number}.mp4"
        write_mp4(world, path, key_frame_every=key_frame_every, seed=number)
        made.append(Film(path=path, world=world, questions=questions))
    return made


def answered(paper: Paper, films: Sequence[Film], way: Way, model: LoadedModel) -> list[bool]:
    """Say of each question whether it is answered right from a video's summed adapters.

    `model` answers. A video of which nothing is stored has no right answer.
    """
    adapters = [way.adapters(film) for film in films]
    kept = [
        Candidate(world=film.world, segments=(), adapters=stored, questions=film.questions)
        for film, stored in zip(films, adapters, strict=True)
        if stored
    ]
    marks = marks_of(paper, "adapter", 0, kept, model)
    return [
        bool(stored) and next(marks).is_right
        for film, stored in zip(films, adapters, strict=True)
        for _ in film.questions
    ]


def scores(
    films: Sequence[Film], rights: Sequence[bool], baseline: Sequence[bool]
) -> dict[str, Any]:
    """Compare one option with the default, question by question: in all, and by kind.

    `questions` are all kinds but captions, as in the model card.
    """
    asked = [(number, q.kind) for number, film in enumerate(films) for q in film.questions]
    kinds = sorted({kind for _, kind in asked})
    members = {"questions": set(kinds) - {"caption"}, **{kind: {kind} for kind in kinds}}
    found = {}
    for name, wanted in members.items():
        rows = [n for n, (_, kind) in enumerate(asked) if kind in wanted]
        ours, theirs = [rights[n] for n in rows], [baseline[n] for n in rows]
        gap = paired_difference(ours, theirs, [asked[n][0] for n in rows])
        found[name] = {
            "num_questions": len(rows),
            "num_right": sum(ours),
            "num_lost": sum(b and not a for a, b in zip(ours, theirs, strict=True)),
            "num_won": sum(a and not b for a, b in zip(ours, theirs, strict=True)),
            "difference": gap.value,
            "low": gap.low,
            "high": gap.high,
        }
    return found


def measure(
    ways: Mapping[str, Way],
    sat: Sequence[Paper],
    folder: Path,
    *,
    num_pairs: int,
    key_frame_every: int | None = None,
) -> list[dict[str, Any]]:
    """Let every option sit every paper, and time the ways over some videos of the first."""
    rows: dict[str, dict[str, Any]] = {name: {"option": name, "papers": {}} for name in ways}
    model = ways[DEFAULT].model
    timed: list[Path] = []
    for paper in sat:
        films = films_of(paper, folder, key_frame_every=key_frame_every)
        timed = timed or [film.path for film in films[:NUM_TIMED]]
        rights = {name: answered(paper, films, way, model) for name, way in ways.items()}
        for name, row in rows.items():
            row["papers"][paper.name] = scores(films, rights[name], rights[DEFAULT])
    for name, way in ways.items():
        (first,) = way.store(timed[0])
        rows[name] |= {
            "recipe_id": way.recipe.recipe_id,
            "num_rejects": way.num_rejects,
            "bytes": len(first),
            "rank": adapter_from_bytes(first).rank,
        }
    work = {
        name: (lambda way=way: [way.store(path) for path in timed], len(timed))
        for name, way in ways.items()
    }
    seconds = in_turns(work, num_pairs=num_pairs)
    for name, row in rows.items():
        turns = zip(seconds[DEFAULT], seconds[name], strict=True)
        row["cpu_ratios"] = [default_s / option_s for default_s, option_s in turns]
    return list(rows.values())


def shown(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = Table(title="Right answers; difference from the default in points, 95% interval")
    sat = list(rows[0]["papers"])
    for heading in ("option", "bytes", "default's CPU over its", *sat, *KINDS):
        made.add_column(heading, justify="left" if heading == "option" else "right")
    for row in rows:
        papers_, ratios = row["papers"], row["cpu_ratios"]
        first = next(iter(papers_.values()))
        made.add_row(
            row["option"],
            f"{row['bytes']:,}",
            f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})",
            *(_cell(paper["questions"]) for paper in papers_.values()),
            *(_cell(first[kind]) if kind in first else "" for kind in KINDS),
        )
    return made


def _cell(score: Mapping[str, Any]) -> str:
    text = f"{score['num_right']}/{score['num_questions']}"
    if score["low"] is None:
        return text
    ends = (100 * score[name] for name in ("difference", "low", "high"))
    return text + " {:+.1f} [{:+.1f}, {:+.1f}]".format(*ends)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Measure what approximations cost and save.", num_pairs=7)
    parser.add_argument("--videos", type=int, default=192, help="of one segment (default: 192)")
    parser.add_argument("--composed", type=int, default=96, help="of 2, and of 8 (default: 96)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    counts = (4, 2) if options.quick else (options.videos, options.composed)
    sat = [p for p in papers(num_videos=counts[0], num_composed=counts[1]) if p.name in PAPERS]
    ways = {name: Way(given) for name, given in OPTIONS.items()}
    console = Console(width=220)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(ways, sat, Path(folder), num_pairs=options.pairs)
        console.print(shown(rows))
        snapped = {}
        for every in KEY_FRAME_EVERY:
            two = {name: ways[name] for name in (DEFAULT, KEYFRAMES)}
            snapped[every] = measure(two, sat[:1], Path(folder), num_pairs=1, key_frame_every=every)
            console.print(f"a key frame at least every {every} frames", highlight=False)
            console.print(shown(snapped[every]))
    full = segment_flops(FULL_SHAPE, sides_px=SIDES_PX)
    for counted in full:
        console.print(
            "{model} at {side_px} px: {tokens_per_frame} tokens per frame, {num_tokens} in all, "
            "{flops:.3g} FLOP per segment".format(**counted),
            highlight=False,
        )
    measured = here | {"num_videos": counts, "options": rows, "full_shape": full}
    measured |= {"key_frame_every": snapped}
    finish(measured, [], out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
