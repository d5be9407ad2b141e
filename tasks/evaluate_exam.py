"""The exam of an evaluation: mp4 files of the shapes world that no training saw, and questions."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from configs.evaluate_schema import ExamConfig
from video2lora_core.shapes_world import ask_all, sample_world
from video2lora_core.shapes_world.video_files import write_mp4

# Training seeds stay below 2^46, and the other exams begin at 9.0e14 and 9.7e14.
_FIRST_SEED = 950_000_000_000_000
_PER_SEED = 1_000_000
# Sizes that a phone, a camera and a screen would give; the model squashes all to its own.
_SIZES_PX = ((128, 128), (192, 108), (160, 120), (96, 170))


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Where the exam's files are."""

    corpus: str
    questions: str


def render_exam(exam: ExamConfig) -> Rendered:
    """Write the exam's videos and its question file; files that are there already are kept."""
    directory = exam.directory.expanduser().absolute()
    videos = directory / "mp4"
    videos.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(line, sort_keys=True)
        for scenes, count in sorted(exam.videos_by_scenes.items())
        for number in range(count)
        for line in _render(videos, exam.seed, scenes, number)
    ]
    # Named by what is asked: another exam in the same folder leaves this one's file alone.
    asked = "-".join(f"{n}x{s}" for s, n in sorted(exam.videos_by_scenes.items()))
    questions = directory / f"questions-{exam.seed}-{asked}.jsonl"
    partial = questions.with_suffix(f".{os.getpid()}.partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(questions)
    return Rendered(corpus=str(videos), questions=str(questions))


def _render(directory: Path, seed: int, num_scenes: int, number: int) -> Iterator[dict[str, str]]:
    world_seed = _FIRST_SEED + _PER_SEED * (100 * seed + num_scenes) + number
    world = sample_world(world_seed, num_scenes=num_scenes)
    path = directory / f"shapes-{seed}-{num_scenes}x4s-{number:04d}.mp4"
    width_px, height_px = _SIZES_PX[number % len(_SIZES_PX)]
    if not path.exists():
        # Outside the corpus: what a kill leaves behind must not be taken for a video.
        partial = directory.parent / f"partial-{os.getpid()}.mp4"
        write_mp4(world, partial, width_px=width_px, height_px=height_px, seed=number)
        partial.replace(path)
    for place, question in enumerate(ask_all(world, seed=seed)):
        yield {
            "question_id": f"{path.stem}/{place}",
            "video": str(path),
            "question": question.text,
            "reference": question.answer,
            "question_type": question.kind,
        }
