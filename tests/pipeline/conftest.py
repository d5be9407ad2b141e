"""A random tiny model and a small corpus, made once; every test gets a lake of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from configs.schema import InternalizeConfig
from flows.cli import main
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from tasks.summary import RunSummary
from tests.core.tiny_vlm import D_FF, D_MODEL, PIXELS, write_tiny_vlm
from tests.core.video_factory import write_video
from video2lora_core.checkpoint import save_checkpoint
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    TargetModule,
    reference_scaling,
)

RANK = 2
# Videos of 10 s and 6 s at 8 frames per second: three and two segments of 4 s with tails from 2 s.
LENGTHS = {"long.mp4": 80, "short.mp4": 48}
PROMPT = {
    "video_header": "<|im_start|>User:",
    "frame": "{image}<fake_token_around_image>",
    "video_footer": "{text}<end_of_utterance>\n",
    "query": "<|im_start|>User: {question}<end_of_utterance>\nAssistant:",
    "target": " {target}<end_of_utterance>\n",
}


def write_model(directory: Path, *, seed: int = 0, vlm: str = "vlm", **changed: Any) -> Path:
    """Write a random hypernetwork beside the tiny VLM, and the model config that names both."""
    config = HypernetworkConfig(
        d_model=D_MODEL,
        layers=(0, 1, 2),
        modules=(TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL),),
        rank=RANK,
        scaling=reference_scaling(RANK),
        d_latent=16,
        num_latents=4,
        num_cross_blocks=1,
    )
    hypernetwork = Hypernetwork(config)
    hypernetwork.reset_parameters(torch.Generator().manual_seed(seed))
    for name, parameter in hypernetwork.named_parameters():
        if name.startswith(("scaler_B", "bias_B")):  # an untrained one is an exact no-op
            torch.nn.init.constant_(parameter, 0.02)
    save_checkpoint(directory / f"hypernetwork{seed}", hypernetwork, info={})
    content = {
        "name": "random",
        "vlm": {"path": vlm, "device": "cpu"},
        "checkpoint": f"hypernetwork{seed}",
        "pixels": {"longest_edge_px": PIXELS.longest_edge_px, "size_px": PIXELS.size_px},
        "prompt": PROMPT,
        "segments": {"segment_s": 4.0, "min_tail_s": 2.0, "num_frames": 4},
        "batch_segments": 4,
        **changed,
    }
    path = directory / f"model{seed}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    write_tiny_vlm(directory / "vlm")
    return directory


@pytest.fixture(scope="session")
def model(model_dir: Path) -> str:
    return str(write_model(model_dir))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The videos, to be copied from."""
    directory = tmp_path_factory.mktemp("shelf")
    for index, (name, num_frames) in enumerate(LENGTHS.items()):
        first = 1000 * index
        write_video(directory / name, numbers=range(first, first + num_frames))
    return directory


@pytest.fixture
def corpus(tmp_path: Path, shelf: Path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "videos"))


Run = Callable[..., RunSummary]
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `video2lora ...` in this process; give exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["video2lora", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None)), *captured

    return run


@pytest.fixture
def run(corpus: Path, tmp_path: Path, model: str) -> Run:
    """Internalize the corpus into a lake of this test, with the local engine, without children.

    A child takes seconds to start; the tests of decoding have their own.
    """

    def internalize(**changed: Any) -> RunSummary:
        values: dict[str, Any] = {
            "corpus": str(corpus),
            "lake": str(tmp_path / "lake"),
            "model": model,
            "decode": {"workers": 0},
        }
        return internalize_corpus(InternalizeConfig(**{**values, **changed}), LocalEngine())

    return internalize


@pytest.fixture
def keep(run: Run) -> Run:
    """Like `run`, into a lake that keeps visual tokens."""
    return lambda **changed: run(keep_visual_tokens=True, **changed)
