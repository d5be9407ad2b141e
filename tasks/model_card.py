"""Hold the exam over a trained model and write its model card: results.json and README.md.

    python -m tasks.model_card --model tiny

Every number of the card comes from results.json; its prose is `configs/models/tiny-card.md`.
"""

import argparse
import functools
import json
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from configs.load import MODELS_DIR, load_model_config
from configs.schema import ModelConfig
from tasks.card_tables import render
from tasks.exam import Mark, Paper, papers, sit
from tasks.models import load_model

Results = dict[str, Any]


def hold_exam(
    config: ModelConfig, *, num_videos: int, num_composed: int, workers: int = 1
) -> Results:
    """Hold every paper of the exam, `workers` at a time; return its tables and who sat it."""
    listed = papers(num_videos=num_videos, num_composed=num_composed)
    longest_first = sorted(listed, key=lambda paper: -paper.num_segments * paper.num_videos)
    hold = functools.partial(_hold_paper, config=config)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        found = dict(pool.map(hold, longest_first))
    model = load_model(config)
    return {
        "checkpoint_sha256": model.checkpoint.sha256,
        "vlm_weights_sha256": model.vlm.weights_sha256,
        "papers": {paper.name: found[paper.name] for paper in listed},
    }


def _hold_paper(paper: Paper, *, config: ModelConfig) -> tuple[str, Results]:
    torch.set_num_threads(1)
    table = tabulate(paper, list(sit(paper, load_model(config), config)))
    right = {mode: kinds["questions"]["percent"] for mode, kinds in table["modes"].items()}
    sys.stderr.write(f"{paper.name}: right answers in percent {right}\n")
    return paper.name, table


def tabulate(paper: Paper, marks: Sequence[Mark]) -> Results:
    """Count right answers by mode and type; `questions` are all types but captions."""
    hits: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    expected: dict[str, list[str]] = defaultdict(list)
    for mark in marks:
        hits[mark.mode][mark.kind].append(mark.is_right)
        if mark.kind != "caption":
            hits[mark.mode]["questions"].append(mark.is_right)
        if mark.mode == "blind":
            expected[mark.kind].append(mark.expected)
    constant = {kind: _by_best_constant(answers) for kind, answers in expected.items()}
    constant["questions"] = [h for kind, row in constant.items() if kind != "caption" for h in row]
    return {
        "num_segments": paper.num_segments,
        "num_videos": paper.num_videos,
        "modes": {
            mode: {kind: _share(row) for kind, row in kinds.items()} for mode, kinds in hits.items()
        },
        "best_constant": {kind: _share(row) for kind, row in constant.items()},
    }


def _by_best_constant(answers: Sequence[str]) -> list[bool]:
    """Mark the answers of whoever always says the most frequent one."""
    best = max(sorted(set(answers)), key=answers.count)
    return [answer == best for answer in answers]


def _share(hits: Sequence[bool]) -> dict[str, float]:
    """Return the share of right answers and its standard error, in percent, and the count."""
    share = sum(hits) / len(hits)
    return {
        "percent": round(100 * share, 1),
        "standard_error": round(100 * sqrt(share * (1 - share) / len(hits)), 2),
        "num_questions": len(hits),
    }


def trained_in(config: ModelConfig, directory: Path) -> ModelConfig:
    """Point a model config to the VLM and the hypernetwork that a training run left."""
    vlm = config.vlm.model_copy(update={"path": str((directory / "vlm").resolve())})
    checkpoint = (directory / "hypernetwork").resolve()
    return config.model_copy(update={"vlm": vlm, "checkpoint": checkpoint})


def write_card(name: str, directory: Path, results: Results) -> None:
    """Write results.json and README.md; reproduction.json, where present, stands beside."""
    (directory / "results.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    other = directory / "reproduction.json"
    reproduction = json.loads(other.read_text()) if other.exists() else None
    prose = (MODELS_DIR / f"{name}-card.md").read_text(encoding="utf-8")
    (directory / "README.md").write_text(render(prose, results, reproduction), encoding="utf-8")


def main() -> None:
    """Parse the command line, hold the exam, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", default="tiny", help="a name of configs/models")
    parser.add_argument("--run", type=Path, help="examine a training run's directory instead")
    parser.add_argument("--out", type=Path, help="where results.json and README.md go")
    parser.add_argument("--videos", type=int, default=384, help="videos of one segment")
    parser.add_argument("--composed", type=int, default=256, help="videos per number of segments")
    parser.add_argument("--workers", type=int, default=2, help="papers sat at the same time")
    parser.add_argument("--tables-only", action="store_true", help="render results.json again")
    given = parser.parse_args()
    config = load_model_config(given.model)
    out = given.out or given.run or MODELS_DIR / given.model
    if given.tables_only:
        results = json.loads((out / "results.json").read_text())
    else:
        config = trained_in(config, given.run) if given.run else config
        results = hold_exam(
            config, num_videos=given.videos, num_composed=given.composed, workers=given.workers
        )
    write_card(given.model, out, results)


if __name__ == "__main__":
    main()
