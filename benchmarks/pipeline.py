"""End to end, from files to adapters in a lake: what overlapping is worth, on two cores.

    .venv/bin/python -m benchmarks.pipeline --pairs 5

One corpus of short videos, a small model whose hypernetwork has the released width (medium.yaml),
wall time. A round is four passes over it:

    decode      hash, probe and decode every video, nothing else      one core
    model       frames in memory to stored bytes, nothing else        one core
    pipeline    the product: one decoding child, batches, writer, commits      two cores
    plain       one video at a time in the reference's order: decode, PIL, encoder with every
                hidden state, hypernetwork, fp32 file with the bias        one core

Bars: the pipeline at least 0.85 times as fast as the slower of decode and model, and at least twice
as fast as the plain loop. On two cores it cannot be faster than the slower of the two: that bound
stands beside. Other work on the machine makes these figures worse, never better.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import _naive_path
from benchmarks._pairs import surroundings
from benchmarks._sizes import naive_of
from benchmarks._verdict import Verdict, at_least, finish, make_parser
from benchmarks._videos import write_corpus
from configs.schema import DecodeConfig, InternalizeConfig
from storage.lake import open_lake
from storage.plans import plan_sources
from tasks.decoding_child import DecodingChild, InProcessReader
from tasks.internalize_batch import internalize_batch
from tasks.known import look_up, plan_segments
from tasks.models import LoadedModel, load_model
from tasks.plan_run import plan_run
from tasks.recipe import Recipe, make_recipe
from tasks.shard_plan import ShardPlan
from tasks.shard_work import do_shard
from tasks.stopwatch import Stopwatch
from tasks.unit_rows import common_columns
from video2lora_core.frames import SegmentFrames
from video2lora_core.vlm import internalization_ids

MODEL = Path(__file__).with_name("medium.yaml")
SIZE_PX = (480, 360)  # decoding takes about as long as the model on the machine this was written on
BATCH_SEGMENTS = 4


class Pipeline:
    """One corpus and the four ways to go over it."""

    def __init__(self, paths: Sequence[Path], root: Path) -> None:
        self.paths, self.root = paths, root
        self.config = self._config(0)
        self.recipe: Recipe = make_recipe(self.config)
        self.model: LoadedModel = load_model(self.recipe.model)
        self.naive = naive_of(self.model.hypernetwork)
        self.frames: list[SegmentFrames] = []
        self._num_lakes = 0

    def _config(self, number: int) -> InternalizeConfig:
        return InternalizeConfig(
            corpus=str(self.paths[0].parent),
            lake=str(self.root / f"lake-{number}"),
            model=str(MODEL),
            engine="local",
            decode=DecodeConfig(workers=1),
            batch_segments=BATCH_SEGMENTS,
        )

    def decode(self) -> None:
        """Meet and decode every video in this process."""
        reader = InProcessReader(model=self.recipe.model, decoder="pyav", limits=self.config.decode)
        self.frames = [frames for path in self.paths for frames in self._read(reader, path)]

    def _read(self, reader: InProcessReader, path: Path) -> Iterator[SegmentFrames]:
        duration_us = reader.meet(path, is_hashed=False).probe.duration_us
        segments = plan_segments(duration_us, self.recipe.model.segments)
        for outcome in reader.decode(path, segments):
            assert isinstance(outcome, SegmentFrames)
            yield outcome

    def compute(self) -> None:
        """Make adapters' bytes of the frames that `decode` left in memory."""
        for start in range(0, len(self.frames), BATCH_SEGMENTS):
            batch = self.frames[start : start + BATCH_SEGMENTS]
            internalize_batch(self.model, self.recipe, batch, stored_dtype="bfloat16")

    @contextmanager
    def prepared_shard(self) -> Iterator[Callable[[], object]]:
        """Plan a run into a fresh lake and start its child; give the shard's work itself."""
        self._num_lakes += 1
        config = self._config(self._num_lakes)
        planned = plan_run(config, attempt_id="bench")
        lake = open_lake(config.lake)
        child = DecodingChild(model=self.recipe.model, decoder="pyav", limits=config.decode)
        child.meet(self.paths[0], is_hashed=True)
        plan = ShardPlan(
            run_id=planned.run_id,
            shard=0,
            recipe_id=self.recipe.recipe_id,
            sources=plan_sources(lake.get_plan(planned.run_id), 0),
            first_unit=0,
            unit_segments=config.unit_segments,
            ahead_segments=config.decode.ahead_segments,
            batch_segments=BATCH_SEGMENTS,
            rule=self.recipe.model.segments,
            corpus_name=config.corpus,
            common=common_columns(self.recipe, attempt_id="bench"),
        )
        known = look_up(lake, plan.sources, recipe_id=self.recipe.recipe_id, run_id=planned.run_id)
        yield lambda: do_shard(
            plan,
            known=known,
            readers=[child],
            make_adapters=lambda batch: internalize_batch(
                self.model, self.recipe, batch, stored_dtype="bfloat16"
            ),
            lake=open_lake(config.lake),
            watch=Stopwatch(),
            scratch_bytes=config.decode.scratch_bytes,
        )

    def plain(self) -> None:
        """Do one video at a time, each step when the one before it is done."""
        vlm, rule = self.model.vlm, self.recipe.model.segments
        config = self.model.hypernetwork.config
        out = self.root / "plain.safetensors"
        for path in self.paths:
            end_us = rule.segment_us
            pictures = _naive_path.frames(
                path, start_us=0, end_us=end_us, num_frames=rule.num_frames
            )
            pixel_values, mask = _naive_path.preprocess(
                pictures,
                longest_edge_px=vlm.pixel_spec.longest_edge_px,
                size_px=vlm.pixel_spec.size_px,
            )
            span_us = end_us // rule.num_frames
            times_us = [span_us // 2 + span_us * index for index in range(rule.num_frames)]
            ids = torch.tensor([internalization_ids(vlm, times_us, end_us)])
            with torch.no_grad():
                x_SLTE = _naive_path.features(vlm.model, ids, pixel_values, mask)
                made = self.naive.combined(self.naive(x_SLTE[:, list(config.layers)]))
            tensors = {
                f"{name}.{side}": t
                for name, ab in made.items()
                for side, t in zip("AB", ab, strict=True)
            }
            save_file({name: t.contiguous() for name, t in tensors.items()}, out)


def wall_s(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds(pipeline: Pipeline, *, num_rounds: int) -> dict[str, list[float]]:
    """Time the four passes in turns."""
    seconds: dict[str, list[float]] = {
        name: [] for name in ("decode", "model", "pipeline", "plain")
    }
    for _ in range(num_rounds):
        seconds["decode"].append(wall_s(pipeline.decode))
        seconds["model"].append(wall_s(pipeline.compute))
        with pipeline.prepared_shard() as shard:
            seconds["pipeline"].append(wall_s(shard))
        seconds["plain"].append(wall_s(pipeline.plain))
    return seconds


def judge(seconds: dict[str, list[float]]) -> list[Verdict]:
    slower = [max(pair) for pair in zip(seconds["decode"], seconds["model"], strict=True)]
    overlap = [a / b for a, b in zip(slower, seconds["pipeline"], strict=True)]
    gain = [a / b for a, b in zip(seconds["plain"], seconds["pipeline"], strict=True)]
    bound = statistics.median(a / b for a, b in zip(seconds["plain"], slower, strict=True))
    shown = ", ".join(f"{name} {statistics.median(s):.1f} s" for name, s in seconds.items())
    return [
        at_least(
            "slower of decode and model, over the pipeline",
            statistics.median(overlap),
            0.85,
            detail=f"{min(overlap):.2f} - {max(overlap):.2f}; {shown}",
        ),
        at_least(
            "plain loop over the pipeline",
            statistics.median(gain),
            2.0,
            detail=f"{min(gain):.2f} - {max(gain):.2f}; two cores allow {bound:.2f}",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time the pipeline against its parts.", num_pairs=5)
    parser.add_argument("--videos", type=int, default=64, help="videos of the corpus")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    num_videos = 4 if options.quick else options.videos
    with tempfile.TemporaryDirectory() as folder:
        paths = write_corpus(Path(folder) / "videos", count=num_videos, size_px=SIZE_PX)
        pipeline = Pipeline(paths, Path(folder))
        seconds = rounds(pipeline, num_rounds=options.pairs)
    measured: dict[str, Any] = here | {
        "shape": {"num_videos": num_videos, "size_px": SIZE_PX, "batch_segments": BATCH_SEGMENTS},
        "seconds": seconds,
        "segments_per_s": num_videos / statistics.median(seconds["pipeline"]),
    }
    finish(measured, judge(seconds), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
