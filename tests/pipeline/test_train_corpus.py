"""Training over a corpus: what it leaves works, is resumed exactly, and is shared by processes."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from configs.load import load_config, load_model_config
from configs.train_corpus_schema import CorpusTrainConfig, load_train_config
from configs.train_schema import TrainConfig
from flows.local_engine import LocalEngine
from flows.train_hypernetwork import train_hypernetwork
from storage.lake import open_lake
from tasks.models import load_model
from tasks.train_corpus import schedule_of, train_corpus
from tasks.training_batches import Sampler
from tasks.training_pool import held_out_ids, training_pool
from tasks.training_videos import training_videos
from tests.pipeline.training_corpus import log_of, training_config
from video2lora_core.errors import UsageError
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.random_model import released_settings

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("train_child.py")
FINISHED = ("hypernetwork/hypernetwork.json", "hypernetwork/hypernetwork.safetensors")


def finished(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in FINISHED]


class KilledError(Exception):
    """Stands for the signal that ends the process."""


def test_a_training_leaves_a_model_that_loads_and_a_killed_one_leaves_the_same(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model)
    made = train_hypernetwork(config, LocalEngine())
    assert [row["step"] for row in log_of(made)] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in log_of(made) if "held_out_loss" in row] == [3, 6]
    loaded = load_model(load_model_config(str(made / "model.yaml")))
    assert loaded.checkpoint.info["corpus_training"]["seed"] == 3
    assert loaded.hypernetwork.config.layers == (0, 1)

    def kill(_: str, step: int, __: int, ___: Mapping[str, float]) -> None:
        if step == 5:
            raise KilledError

    broken = tmp_path / "broken"
    with pytest.raises(KilledError):
        train_corpus(config, out=broken, report=kill)
    train_corpus(config, out=broken)
    assert log_of(broken) == log_of(made)
    assert finished(broken) == finished(made)
    other = config.model_copy(update={"seed": 4})
    with pytest.raises(UsageError, match="was trained with another config"):
        train_corpus(other, out=broken)
    rows = (tmp_path / "questions.jsonl").read_text(encoding="utf-8")
    (tmp_path / "questions.jsonl").write_text(rows.replace("three", "two"), encoding="utf-8")
    with pytest.raises(UsageError, match="was trained on other examples"):
        train_corpus(config, out=broken)


def test_without_the_teachers_answers_training_says_who_gives_them(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model, targets="teacher")
    with pytest.raises(UsageError, match="have no target yet; run `video2lora teach`"):
        train_corpus(config)


def test_draws_are_decided_by_their_names_and_keep_out_of_the_span(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model)
    lake = open_lake(config.lake, create=True)
    videos = training_videos(config, lake)
    pool = training_pool(config, videos, lake)
    sampler, again = (Sampler(config, [(e, "yes") for e in pool], videos) for _ in range(2))
    drawn = [sampler.draw(f"{number}") for number in range(300)]
    assert drawn == [again.draw(f"{number}") for number in range(300)]
    for one in drawn:
        span = one.example.span
        assert (one.pieces[0].start_us, one.pieces[-1].end_us) == (span.start_us, span.end_us)
        for video_id, segment in one.distractors:
            apart = segment.end_us <= span.start_us or segment.start_us >= span.end_us
            assert video_id != one.example.video_id or apart
    captions = [one for one in drawn if one.example.kind == "caption"]
    assert not any(one.distractors for one in captions)
    assert len(captions) / 300 == pytest.approx(0.5, abs=0.15)
    assert {len(one.pieces) for one in drawn} == {1, 2}
    assert {len(one.distractors) for one in drawn} == {0, 1}


def test_held_out_videos_stay_held_out_while_the_corpus_grows(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model)
    videos = training_videos(config, open_lake(config.lake, create=True))
    assert len(held_out_ids(videos, 0.01)) == len(held_out_ids(videos, 0.99)) == 1


@pytest.mark.parametrize("name", ["smolvlm2-500m", "smolvlm2-2.2b"])
def test_the_papers_trainings_have_its_settings_and_the_released_networks_shape(
    name: str,
) -> None:
    config = load_train_config(ROOT / f"configs/train/{name}.yaml")
    assert isinstance(config, CorpusTrainConfig)
    given = {"smolvlm2-500m": (9000, 384, 4), "smolvlm2-2.2b": (7000, 240, 6)}[name]
    assert (config.optimiser.steps, config.optimiser.batch) == given[:2]
    schedule = schedule_of(config, num_processes=given[2])
    assert schedule.accumulate * config.optimiser.batch_per_process * given[2] == given[1]
    assert schedule.warmup_steps == round(0.03 * given[0])
    assert (schedule.learning_rate, schedule.weight_decay, schedule.clip_norm) == (1e-4, 0.01, 1.0)
    assert (schedule.rate(given[0]), schedule.beta2) == (0.0, 0.999)
    with torch.device("meta"):
        model = load_model_config(config.model, random_weights=True)
    from tasks.models import random_model

    drawn = random_model(model)
    assert drawn is not None
    expected = released_settings(drawn.config())
    shape = config.network
    assert (shape.rank, shape.d_latent, shape.num_latents, shape.num_cross_blocks) == (
        expected.rank,
        expected.d_latent,
        expected.num_latents,
        expected.num_cross_blocks,
    )
    parameters = Hypernetwork(expected, device="meta").parameters()
    counted = {"smolvlm2-500m": 128_626_176, "smolvlm2-2.2b": 227_323_136}[name]
    assert sum(p.numel() for p in parameters) == counted


def test_the_small_training_is_valid_and_the_embedded_one_is_told_apart() -> None:
    small = load_train_config(ROOT / "configs/train/tiny-corpus.yaml")
    assert isinstance(small, CorpusTrainConfig)
    assert load_model_config(small.model).name == "tiny"
    embedded = load_train_config(ROOT / "configs/train/tiny.yaml")
    assert embedded == load_config(ROOT / "configs/train/tiny.yaml", TrainConfig)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"captions": [], "questions": None}, "something must be asked"),
        ({"loss": {"cross_entropy": 0}}, "nothing is learned"),
        ({"targets": "online"}, "learns by KL alone"),
        ({"compose": {"pieces": {0: 1.0}}}, "positive share"),
        ({"optimiser": {"steps": 1, "batch": 3, "batch_per_process": 2}}, "a multiple of"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        training_config(tmp_path, tmp_path, "tiny", **changed)


def start(config: CorpusTrainConfig, folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    path = folder / f"{Path(config.out).name}.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen([sys.executable, str(CHILD), str(path)], env=variables)


@pytest.mark.slow
def test_a_training_killed_by_the_system_goes_on_to_the_same_losses(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    straight = training_config(tmp_path, corpus, model)
    train_hypernetwork(straight, LocalEngine())
    config = straight.model_copy(update={"out": tmp_path / "killed"})
    log = config.out / "training" / "log.jsonl"
    child = start(config, tmp_path)
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (
            log.exists() and len(log.read_text().splitlines()) >= 3
        ):
            time.sleep(0.01)
    finally:
        child.kill()
        assert child.wait() == -9
    killed_at = len(log.read_text().splitlines())
    assert killed_at >= 3
    with log.open("a") as lines:  # and as if its last line had been torn
        lines.write('{"step": 4, "lo')
    assert start(config, tmp_path).wait() == 0
    assert log_of(config.out) == log_of(straight.out)
    assert finished(config.out) == finished(straight.out)


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_the_same_batch(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    alone = training_config(tmp_path, corpus, model)
    train_hypernetwork(alone, LocalEngine())
    config = alone.model_copy(update={"out": tmp_path / "team"})
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [
        start(config, tmp_path, RANK=rank, LOCAL_RANK=rank, ACCELERATE_USE_CPU="true", **shared)
        for rank in ("0", "1")
    ]
    try:
        assert [child.wait(timeout=180) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
    pairs = zip(log_of(alone.out), log_of(config.out), strict=True)
    for one, both in pairs:
        assert both["loss"] == pytest.approx(one["loss"], abs=1e-5)
        assert both["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-3)
    held_out = [
        [row["held_out_loss"] for row in log_of(c.out) if "held_out_loss" in row]
        for c in (alone, config)
    ]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    assert json.loads((config.out / "material.json").read_text())["num_videos"] == 1
