"""A second run over a corpus: decoding and seeing again, against visual tokens that were kept.

    .venv/bin/python -m benchmarks.visual_tokens --pairs 5

A lake is filled once with visual tokens kept. Each round copies it twice and makes the corpus's
adapters anew with another stored dtype, once from the videos and once from the tokens: the whole
run, from plan to publishing, in this process, one thread, CPU seconds. Both know every video, so
neither hashes one; the adapters must be the same files. The model is medium.yaml, whose vision
tower is small: what a full-size one saves is counted at the 500M's shape, on tensors that hold
nothing. Bars: at least 61% of the 500M's operations are saved; nothing is decoded; 1.2 of the time.
"""

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._pairs import seconds_of, surroundings
from benchmarks._sizes import TOKENS_500M, BenchModel, fake_model
from benchmarks._verdict import Verdict, at_least, at_most, finish, make_parser
from benchmarks._videos import write_corpus
from configs.load import load_model_config
from configs.schema import DecodeConfig, InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import open_lake
from tasks.models import visual_token_shape
from tasks.summary import RunSummary
from video2lora_core.encoder import look
from video2lora_core.graphs import batch_factors
from video2lora_core.pixels import normalise

MODEL = Path(__file__).with_name("medium.yaml")
SIZE_PX = (480, 360)
FULL = "smolvlm2-500m"


class Rerun:
    """A lake whose visual tokens are kept, and second runs in copies of it."""

    def __init__(self, root: Path, *, num_videos: int) -> None:
        self.root = root
        write_corpus(root / "videos", count=num_videos, size_px=SIZE_PX)
        self.first = self._run(root / "first", keep_visual_tokens=True)

    def _run(self, lake: Path, **changed: Any) -> RunSummary:
        config = InternalizeConfig(
            corpus=str(self.root / "videos"),
            lake=str(lake),
            model=str(MODEL),
            decode=DecodeConfig(workers=0),
            **changed,
        )
        return internalize_corpus(config, LocalEngine())

    def once(self, *, from_tokens: bool) -> tuple[float, RunSummary, set[str]]:
        """Make the corpus's adapters anew; give CPU seconds, the summary and the adapters."""
        lake = self.root / "copy"
        shutil.copytree(self.root / "first", lake)
        done: list[RunSummary] = []
        spent_s = seconds_of(
            lambda: done.append(
                self._run(lake, keep_visual_tokens=from_tokens, stored_dtype="float32")
            )
        )
        rows = open_lake(lake).table("adapters").to_pylist()
        recipe_id = done[0].plan.recipe_id
        made = {row["adapter_sha256"] for row in rows if row["recipe_id"] == recipe_id}
        shutil.rmtree(lake)
        return spent_s, done[0], made


def timed(rerun: Rerun, *, num_pairs: int) -> dict[str, Any]:
    """Time both ways in turns; SystemExit where they make other adapters."""
    seconds: dict[str, list[float]] = {"videos": [], "tokens": []}
    made: dict[str, set[str]] = {}
    num_decoded = {"videos": 0, "tokens": 0}
    order = list(seconds)
    for _ in range(num_pairs):
        for name in order:
            spent_s, summary, made[name] = rerun.once(from_tokens=name == "tokens")
            seconds[name].append(spent_s)
            num_decoded[name] = summary.shards.num_files_decoded
        if made["videos"] != made["tokens"]:
            raise SystemExit("visual tokens: they make other adapters than the videos; not timed")
        order.reverse()
    return {"seconds": seconds, "num_files_decoded": num_decoded}


def counted_flops(model: BenchModel, *, num_frames: int, num_tokens: int) -> dict[str, int]:
    """Count one segment's operations: all of them, and those that end with its visual tokens."""
    vlm = model.vlm
    size_px = vlm.pixel_spec.size_px
    pixels = torch.empty(1, num_frames, 3, size_px, size_px, dtype=torch.uint8)
    input_ids = torch.empty(1, num_tokens, dtype=torch.long)
    counts = {}
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            batch_factors(vlm, model.hypernetwork, pixels, input_ids)
        counts["whole"] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            look(vlm, normalise(pixels.flatten(0, 1), dtype=vlm.dtype))
        counts["seeing"] = counter.get_total_flops()
    return counts


def full_size() -> dict[str, Any]:
    """Count at the 500M's shape: operations of a segment, and bytes of its visual tokens."""
    config = load_model_config(FULL, random_weights=True)
    num_frames = config.segments.num_frames
    with fake_model(FULL, dtype=torch.bfloat16) as model:
        flops = counted_flops(model, num_frames=num_frames, num_tokens=TOKENS_500M)
    num_tokens, d_model = visual_token_shape(config)
    return {
        "flops": flops,
        "shape": [num_frames, num_tokens, d_model],
        "token_bytes": num_frames * num_tokens * d_model * torch.bfloat16.itemsize,
    }


def judge(found: dict[str, Any], full: dict[str, Any]) -> list[Verdict]:
    seconds, flops = found["seconds"], full["flops"]
    ratios = [a / b for a, b in zip(seconds["videos"], seconds["tokens"], strict=True)]
    share = flops["seeing"] / flops["whole"]
    return [
        at_least(
            f"{MODEL.stem}: a run from videos over one from kept tokens, CPU time",
            statistics.median(ratios),
            1.2,
            detail=f"{min(ratios):.2f} - {max(ratios):.2f}",
        ),
        at_most("files decoded with tokens kept", found["num_files_decoded"]["tokens"], 0),
        at_least(
            "500M, share of a segment's operations that tokens save",
            share,
            0.61,
            detail=f"{flops['seeing'] / 1e12:.2f} of {flops['whole'] / 1e12:.2f} TFLOP, counted",
        ),
        at_most(
            "500M, MB of visual tokens per segment",
            full["token_bytes"] / 1e6,
            1.5,
            detail=" x ".join(map(str, full["shape"])) + " x 2 bytes",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = make_parser("Time a second run from kept visual tokens.", num_pairs=5)
    parser.add_argument("--videos", type=int, default=24, help="videos of the corpus")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    num_videos = 2 if options.quick else options.videos
    with tempfile.TemporaryDirectory() as folder:
        rerun = Rerun(Path(folder), num_videos=num_videos)
        found = timed(rerun, num_pairs=options.pairs)
    full = full_size()
    measured = here | found | {"shape": {"num_videos": num_videos}, "full_size": full}
    finish(measured, judge(found, full), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
