"""A training over two small videos with the random tiny model: its config, its files, its log."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.train_corpus_schema import CorpusTrainConfig

NETWORK = {"layers": [0, 1], "rank": 2, "d_latent": 16, "num_latents": 4, "num_cross_blocks": 1}


def training_config(folder: Path, corpus: Path, model: str, **changed: Any) -> CorpusTrainConfig:
    """Captions and two questions over a corpus; everything else small."""
    questions = folder / "questions.jsonl"
    rows = [
        {"video": name, "question": "How many are there ?", "reference": number}
        for name, number in (("long.mp4", "three"), ("short.mp4", "two"))
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values: dict[str, Any] = {
        "kind": "corpus",
        "model": model,
        "lake": str(folder / "lake"),
        "corpus": str(corpus),
        "out": str(folder / "trained"),
        "captions": ["What is the colour of this ball ?", "What is this ?"],
        "questions": str(questions),
        "targets": "reference",
        "seed": 3,
        "spans": {"per_video": 3},
        "compose": {"pieces": {1: 0.5, 2: 0.5}, "distractors": {0: 0.5, 1: 0.5}},
        "teacher": {"num_frames": 2, "max_new_tokens": 3, "unit_examples": 2},
        "network": NETWORK,
        "optimiser": {
            "steps": 6,
            "batch": 4,
            "batch_per_process": 2,
            "learning_rate": 0.003,
            "save_every": 2,
            "log_every": 1,
        },
        "held_out": {"share": 0.5, "every": 3, "batches": 2},
        "decode_threads": 1,
        "bounds_segments": 0,
    }
    return CorpusTrainConfig.model_validate({**values, **changed})


def log_of(directory: Path) -> list[Mapping[str, float]]:
    """The log of a training, without the clock."""
    lines = (directory / "training" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
