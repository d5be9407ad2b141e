"""Does it pay to train a hypernetwork on compositions? Two arms, several seeds, one exam.

    python -m tasks.composition_training_study --out runs/composition-training

trains the embedded default's hypernetwork over its shipped VLM twice per seed: `composed` asks
about random compositions after its first solo steps, `single` about single segments to the end.
Then every arm sits the same papers, and docs/composition-training.md is written. Arms that are
finished are not trained again, measured ones not measured again; `--measure-only` takes the arms
that are there.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from configs.load import load_config, load_model_config
from configs.schema import ModelConfig
from configs.train_schema import TrainConfig
from tasks.composition_training_page import write_page
from tasks.exam import ExamVideo, Paper, candidate_of, exam_video, marks_of
from tasks.models import forget_model, load_model, pixel_spec, prompt_layout
from tasks.train import train_hypernetwork
from video2lora_core.vlm import load_vlm

CONFIGS: Final = Path(__file__).parent.parent / "configs"
PAGE: Final = Path(__file__).parent.parent / "docs" / "composition-training.md"
NUM_SEGMENTS: Final = (1, 2, 4, 8)
ARMS: Final = ("composed", "single")
GROUP: Final = 8
"""Videos that are internalized and asked about at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One training: how, from which seed, and where it is."""

    name: str
    seed: int
    directory: Path

    @property
    def checkpoint(self) -> Path:
        """Return the finished checkpoint's directory."""
        return self.directory / "hypernetwork"

    @property
    def figures(self) -> Path:
        """Return the file of what was measured."""
        return self.directory / "exam.json"


def arms(out: Path, seeds: Sequence[int]) -> list[Arm]:
    """List both arms of every seed."""
    return [
        Arm(name=name, seed=seed, directory=out / f"{name}-{seed}")
        for seed in seeds
        for name in ARMS
    ]


def arm_config(arm: Arm, *, steps: int, solo_steps: int) -> TrainConfig:
    """Return the embedded default's training config with the arm's seed, steps and solo steps."""
    base = load_config(CONFIGS / "train" / "tiny.yaml", TrainConfig)
    schedule = base.hypernetwork.schedule.model_copy(update={"steps": steps})
    solo = solo_steps if arm.name == "composed" else steps
    changed = {"schedule": schedule, "solo_steps": solo}
    hypernetwork = base.hypernetwork.model_copy(update=changed)
    return base.model_copy(update={"seed": arm.seed, "hypernetwork": hypernetwork})


def train_arm(arm: Arm, *, steps: int, solo_steps: int) -> None:
    """Train an arm over the shipped VLM, going on where it stopped."""
    config, model = arm_config(arm, steps=steps, solo_steps=solo_steps), load_model_config("tiny")
    torch.set_num_threads(config.threads)
    vlm = load_vlm(
        CONFIGS / "models" / "tiny" / "vlm",
        layout=prompt_layout(model),
        pixel_spec=pixel_spec(model),
    )
    arm.directory.mkdir(parents=True, exist_ok=True)
    train_hypernetwork(
        config,
        model,
        vlm,
        arm.directory,
        resume=True,
        report=lambda _, step, total, found: _say(
            f"{arm.name} {arm.seed}: step {step} of {total}, loss {found['loss']}"
        ),
    )


def measure(measured: Sequence[Arm], *, num_videos: int) -> None:
    """Let arms sit the papers and keep their marks; each video is rendered once for all."""
    config = load_model_config("tiny")
    for count in NUM_SEGMENTS:
        paper = Paper(
            name=f"{count} segments",
            num_segments=count,
            num_videos=num_videos,
            two_things=0.0,
            seed=10 * count,
        )
        waiting = [arm for arm in measured if str(count) not in _figures(arm, num_videos)]
        if not waiting:
            continue
        videos = [exam_video(paper, number, config) for number in range(num_videos)]
        for arm in waiting:
            found = _figures(arm, num_videos) | {str(count): _sit(arm, paper, videos, config)}
            content = {"num_videos": num_videos, "right": found}
            arm.figures.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            _say(f"{arm.name} {arm.seed}: {count} segments {found[str(count)]}")


def _sit(
    arm: Arm, paper: Paper, videos: Sequence[ExamVideo], config: ModelConfig
) -> dict[str, Any]:
    """Return the right answers of an arm's plain sums, in all and by type of question."""
    forget_model()
    model = load_model(config.model_copy(update={"checkpoint": arm.checkpoint.resolve()}))
    right: dict[str, list[bool]] = {}
    for start in range(0, len(videos), GROUP):
        group = [candidate_of(video, model) for video in videos[start : start + GROUP]]
        for mark in marks_of(paper, "adapter", start, group, model):
            right.setdefault("all", []).append(mark.is_right)
            right.setdefault(mark.kind, []).append(mark.is_right)
    return {
        "num_questions": len(right["all"]),
        **{kind: round(100 * sum(hits) / len(hits), 2) for kind, hits in sorted(right.items())},
    }


def _figures(arm: Arm, num_videos: int) -> dict[str, Any]:
    """Return what was measured before on so many videos."""
    if not arm.figures.exists():
        return {}
    content = json.loads(arm.figures.read_text(encoding="utf-8"))
    return dict(content["right"]) if content["num_videos"] == num_videos else {}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def main() -> None:
    """Parse the command line; train what is missing, measure, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--steps", type=int, default=1000, help="steps of each arm")
    parser.add_argument("--solo-steps", type=int, default=350, help="of the composed arm")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument("--videos", type=int, default=32, help="videos per number of segments")
    parser.add_argument("--out", type=Path, required=True, help="where the arms are")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write")
    parser.add_argument("--measure-only", action="store_true", help="train nothing")
    given = parser.parse_args()
    found = arms(given.out, given.seeds)
    if not given.measure_only:
        for arm in found:
            if not arm.checkpoint.exists():
                train_arm(arm, steps=given.steps, solo_steps=given.solo_steps)
    finished = [arm for arm in found if arm.checkpoint.exists()]
    measure(finished, num_videos=given.videos)
    results = [
        {"arm": arm.name, "seed": arm.seed, "right": _figures(arm, given.videos)}
        for arm in finished
    ]
    write_page(
        results,
        given.page,
        num_videos=given.videos,
        steps=given.steps,
        solo_steps=given.solo_steps,
    )


if __name__ == "__main__":
    main()
