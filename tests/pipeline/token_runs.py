"""What tests of kept visual tokens share: runs into one lake, and what they left there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from configs.load import load_model_config
from configs.schema import InternalizeConfig
from storage.lake import Lake, open_lake
from tasks.models import load_model
from tasks.recipe import Recipe, make_recipe
from tasks.summary import RunSummary

Run = Callable[..., RunSummary]
Adapters = dict[tuple[str, int], str]

NUM_SEGMENTS, NUM_VIDEOS = 5, 2


def adapters(lake: Lake, summary: RunSummary) -> Adapters:
    """Map each segment to its adapter's hash, under the recipe of a run."""
    found = lake.query(
        "select video_id, start_us, adapter_sha256 as sha from adapters_latest "
        f"where recipe_id = '{summary.plan.recipe_id}'"
    ).to_pylist()
    return {(row["video_id"], row["start_us"]): row["sha"] for row in found}


def without_tokens(run: Run, tmp_path: Path, **changed: Any) -> Adapters:
    """What the same run makes in a lake that keeps nothing."""
    summary = run(lake=str(tmp_path / "plain"), **changed)
    assert summary.shards.num_segments_recalled == 0
    return adapters(open_lake(tmp_path / "plain"), summary)


def token_files(lake: Lake) -> list[Path]:
    return sorted(Path(lake.uri, "visual_tokens").rglob("*.safetensors"))


def work(summary: RunSummary) -> tuple[int, int, int, int]:
    done = summary.shards
    recalled = done.num_segments_recalled
    return done.num_files_read, done.num_files_decoded, recalled, done.num_segments


@contextmanager
def counting_looks(model: str) -> Iterator[list[int]]:
    """Note how many frames each call of a model's vision tower sees."""
    looks: list[int] = []
    tower = load_model(load_model_config(model)).vlm.model.model.vision_model.encoder
    handle = tower.register_forward_pre_hook(
        lambda _module, _args, given: looks.append(len(given["inputs_embeds"])), with_kwargs=True
    )
    try:
        yield looks
    finally:
        handle.remove()


def recipe_of(model: str, **changed: Any) -> Recipe:
    return make_recipe(InternalizeConfig(corpus="videos", lake="lake", model=model, **changed))


def variant(model: str, name: str, **changed: Any) -> str:
    """Write the model config again, with a few settings changed."""
    path = Path(model)
    content = yaml.safe_load(path.read_text())
    written = path.with_name(f"variant-{name}.yaml")
    written.write_text(yaml.safe_dump({**content, **changed}))
    return str(written)
