"""Render a small corpus to train on: mp4 files of the shapes world, and a question set about them.

    python -m tasks.render_training_corpus --out runs/corpus

writes OUT/videos/*.mp4 and OUT/questions.jsonl. Questions name an object and not a time, so that
they can be asked of a composition; each carries the world's own answer as its reference.
"""

import argparse
import json
from pathlib import Path
from typing import Final

from tasks.render_corpus import RenderedVideo, render_corpus
from video2lora_core.shapes_world.questions import MANY_SCENES_TYPES

NUM_SCENES: Final = (1, 2, 3)
"""Lengths of the videos in turn, in scenes of 4 s."""


def render_training_corpus(out: Path, *, num_videos: int, seed: int = 0) -> Path:
    """Render the videos and write the question set; return its path."""
    scenes = [NUM_SCENES[number % len(NUM_SCENES)] for number in range(num_videos)]
    videos = render_corpus(out / "videos", seed=seed, num_scenes=scenes)
    path = out / "questions.jsonl"
    path.write_text("".join(_lines(videos)), encoding="utf-8")
    return path


def _lines(videos: tuple[RenderedVideo, ...]) -> list[str]:
    return [
        json.dumps(
            {
                "video": video.path.name,
                "question": question.text,
                "reference": question.answer,
                "question_type": question.kind,
            }
        )
        + "\n"
        for video in videos
        for question in video.questions
        if video.num_scenes == 1 or question.kind in MANY_SCENES_TYPES
    ]


def main() -> None:
    """Parse the command line and render."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True, help="where videos and questions go")
    parser.add_argument("--videos", type=int, default=48, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other videos")
    given = parser.parse_args()
    render_training_corpus(given.out, num_videos=given.videos, seed=given.seed)


if __name__ == "__main__":
    main()
