"""How far PEFT's logits are from ours: the figures of docs/exporting.md.

    .venv/bin/python -m benchmarks.peft_parity --out peft_parity.json

Real adapters of the embedded default: rendered videos of 31 segments in all are internalized into a
lake that is thrown away; the bias, one segment and compositions are written as PEFT directories
and loaded by the installed PEFT. Four questions each; the model and the files in float32, then in
bfloat16. "Effect" is the largest change of a logit that the adapter makes at all.
"""

import argparse
import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks._pairs import surroundings
from configs.schema import InternalizeConfig
from flows.api import OpenLake, open_lake
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from tasks.compose_adapters import Reduction
from tasks.render_corpus import RenderedVideo, render_corpus
from tasks.verify_export import peft_logits
from video2lora_core.adapter import Adapter
from video2lora_core.compose import bias_only, with_bias
from video2lora_core.inject import adapted
from video2lora_core.peft_format import peft_files
from video2lora_core.vlm import query_ids

NUM_SCENES = (8, 8, 8, 7)  # a scene is a segment
NUM_QUESTIONS = 4
DTYPES = (torch.float32, torch.bfloat16)


def internalized(directory: Path) -> tuple[OpenLake, Sequence[RenderedVideo]]:
    """Render videos of 31 segments in all and internalize them into a lake of their own."""
    videos = render_corpus(directory / "videos", seed=7, num_scenes=NUM_SCENES)
    uri = str(directory / "lake")
    config = InternalizeConfig(corpus=str(directory / "videos"), lake=uri, model="tiny")
    internalize_corpus(config, LocalEngine())
    return open_lake(uri), videos


def cases(lake: OpenLake, videos: Sequence[RenderedVideo]) -> Iterator[tuple[str, Adapter]]:
    """Yield what is exported, each with the bias exactly once."""
    config, bias = lake.model.hypernetwork.config, lake.model.bias()
    checkpoint = lake.model.checkpoint.sha256
    yield (
        "the bias alone",
        bias_only(bias, layers=config.layers, scaling=config.scaling, checkpoint_sha256=checkpoint),
    )
    ids = [sha256 for video in videos for sha256 in lake.pick(str(video.path)).ids]
    for count in (1, 2, 8, len(ids)):
        members = lake.members(ids[:count])
        plain = lake.composition(members).adapter
        yield f"{count} segment{'s' if count > 1 else ''}", with_bias(plain, bias)
    for rank in (4, 16, 64):
        short = lake.composition(members, Reduction(method="svd", rank=rank)).adapter
        yield f"{len(ids)} segments, svd to rank {rank}", with_bias(short, bias)


def compared(
    model: Any, adapter: Adapter, prompts: Sequence[Tensor], directory: Path, *, bias_rank: int
) -> tuple[float, float]:
    """Return the largest difference of a logit, and the largest effect of the adapter."""
    directory.mkdir(parents=True)
    files = peft_files(adapter, base_model="tiny", bias_rank=bias_rank, dtype=model.dtype)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    differences, effects = [], []
    for ids in prompts:
        plain = model(input_ids=ids).logits.float()
        with adapted(model, adapter):
            ours = model(input_ids=ids).logits.float()
        theirs, odd = peft_logits(model, [directory], ids)
        assert not odd, odd
        differences.append(float((theirs - ours).abs().max()))
        effects.append(float((ours - plain).abs().max()))
    return max(differences), max(effects)


def measured(directory: Path) -> list[dict[str, Any]]:
    """Compare every case in every number format."""
    lake, videos = internalized(directory)
    vlm = lake.model.vlm
    texts = [question.text for question in videos[0].questions[:NUM_QUESTIONS]]
    prompts = [torch.tensor([query_ids(vlm, text)], device=vlm.device) for text in texts]
    bias_rank = lake.model.hypernetwork.config.rank
    rows: list[dict[str, Any]] = []
    for dtype in DTYPES:
        model = copy.deepcopy(vlm.model).to(dtype)
        for what, adapter in cases(lake, videos):
            name = str(dtype).removeprefix("torch.")
            place = directory / name / str(len(rows))
            found = compared(model, adapter, prompts, place, bias_rank=bias_rank)
            rows.append(
                {
                    "what": what,
                    "rank": adapter.rank,
                    "dtype": name,
                    "difference": found[0],
                    "effect": found[1],
                    "part": found[0] / found[1],
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compare PEFT's logits with ours.")
    parser.add_argument("--out", type=Path, help="write everything measured here, as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory, torch.no_grad():
        rows = measured(Path(directory))
    shown = Table(title="PEFT against ours, embedded default")
    for column in rows[0]:
        shown.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for row in rows:
        cells = [f"{v:.1e}" if isinstance(v, float) else str(v) for v in row.values()]
        shown.add_row(*cells)
    Console(width=120).print(shown)
    if options.out:
        text = json.dumps(surroundings() | {"rows": rows}, indent=2)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
