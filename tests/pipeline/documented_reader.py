"""A folder such as a reader of the documents has one, and a way to run their lines in it."""

import io
import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli import main
from storage.lake import open_lake
from tests.core.golden_files import released_checkpoint
from tests.pipeline.documented_lines import ROOT
from tests.pipeline.prefect_servers import free_port
from video2lora_core.shapes_world import sample_world
from video2lora_core.shapes_world.video_files import write_mp4

LAKE = "my-lake"
QUESTION = "what colour is the ball?"
NO_EXAM = {"exam", "cost", "composition", "ranks", "sweep"}


def render(path: Path, seed: int, num_scenes: int) -> Path:
    """Write a video of the shapes world, 4 s a scene, one thing in each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    world = sample_world(920_000_000_000_000 + seed, num_scenes=num_scenes, two_things=0.0)
    return write_mp4(world, path, width_px=96, height_px=96, seed=seed)


def furnish(folder: Path) -> None:
    """Put in place what the documents take for granted: videos, manifests, questions, configs."""
    videos = folder / "videos"
    render(videos / "street.mp4", seed=0, num_scenes=16)
    render(videos / "garden.mp4", seed=1, num_scenes=1)
    (videos / "broken.mp4").write_text("no video")
    for number in range(4):
        render(folder / f"validation/{number}.mp4", seed=10 + number, num_scenes=8)
    uris = [str(videos / name) for name in ("street.mp4", "garden.mp4")]
    pq.write_table(pa.table({"uri": uris}), folder / "corpus.parquet")
    asked = [(name, QUESTION) for name in ("street.mp4", "garden.mp4")]
    rows = [json.dumps({"video": name, "question": text}) for name, text in asked]
    (folder / "questions.jsonl").write_text("\n".join(rows) + "\n")
    rows = ["video,question", *(",".join(row) for row in asked)]
    (folder / "questions.csv").write_text("\n".join(rows) + "\n")
    _furnish_models(folder)
    annotations = ROOT / "tests/pipeline/annotations"
    shutil.copy(annotations / "next_qa_oe.csv", folder / "val.csv")
    shutil.copy(annotations / "vdc.jsonl", folder / "VDC_1k.jsonl")
    shutil.copytree(videos, folder / "nextqa-videos")
    shutil.copy(videos / "street.mp4", folder / "nextqa-videos/1000000001.mp4")


def _furnish_models(folder: Path) -> None:
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "configs/models/tiny", folder / "tiny")
    shutil.copy(ROOT / "configs/models/tiny.yaml", folder / "my-model.yaml")
    shutil.copy(released_checkpoint(), folder / "released.pt")
    training = folder / "configs/train/tiny-corpus.yaml"
    text = training.read_text(encoding="utf-8")
    text = text.replace("steps: 120", "steps: 2").replace("batch: 32", "batch: 16")
    training.write_text(text)
    mine = yaml.safe_load((ROOT / "configs/evaluate/tiny.yaml").read_text(encoding="utf-8"))
    mine = {key: value for key, value in mine.items() if key not in NO_EXAM}
    mine |= {"questions": "questions.jsonl", "modes": ["adapter", "blind"], "has_control": False}
    (folder / "mine.yaml").write_text(yaml.safe_dump(mine))


def first_of(sql: str) -> Callable[[], str]:
    """Look an id up in the reader's lake."""

    def look() -> str:
        return ",".join(row["id"] for row in open_lake(LAKE).query(sql).to_pylist())

    return look


# What stands for something of the reader's own: where it stands, and what stands there instead.
STAND_INS: tuple[tuple[str, Callable[[], str]], ...] = (
    (r"^make demo$", lambda: "video2lora demo --engine local --num-videos 1"),  # as the Makefile
    (r"render_training_corpus --out runs/corpus$", lambda: "\\g<0> --videos 12"),
    (r"s3://team/lake|/data/lake", lambda: LAKE),
    (r"/data/videos", lambda: "videos"),
    (r"(?<=--run )3fa9c1\b", first_of("select run_id[:12] id from runs where event = 'planned'")),
    (
        r"(?<=--video )3fa9c1\b",
        first_of("select video_id[:12] id from videos where num_segments=1"),
    ),
    (r"3fa9c1d2,77ab01ce", first_of("select adapter_sha256 id from adapters_latest limit 2")),
    (
        r"(?<=composition:)3fa9c1d2|(?<=--composition )3fa9c1d2",
        first_of(
            "select composition_id id from compositions where adapter_sha256 is not null limit 1"
        ),
    ),
    (r"2026-11-20T08:00", lambda: datetime.now(UTC).isoformat()),
    (r"adapters=12", lambda: f"adapters={open_lake(LAKE).versions()['adapters']}"),
    (r"videos=12", lambda: f"videos={open_lake(LAKE).versions()['videos']}"),
    (r"\b9464\b", lambda: str(free_port())),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """How a line ended, and what it printed."""

    line: str
    code: int
    out: str
    err: str


def run_line(text: str) -> Done:
    """Run a line in this process, in the current folder, with the reader's own ids in it."""
    for pattern, found in STAND_INS:
        if re.search(pattern, text):
            text = re.sub(pattern, found(), text)
    program, *words = shlex.split(text)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", [program, *words])
        code = _exit_code(program)
    return Done(line=text, code=code, out=out.getvalue(), err=err.getvalue())


def _exit_code(program: str) -> int:
    try:
        if program == "python":
            sys.argv = sys.argv[2:]
            runpy.run_module(sys.argv[0], run_name="__main__")
            return 0
        assert program == "video2lora", program
        main()
    except SystemExit as ended:
        code = ended.code
        return code if isinstance(code, int) else int(code is not None)
    return 0
