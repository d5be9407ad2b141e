"""What the answering benchmark asks of: a model, videos' adapters, one video's frames, questions.

Two rooms: a slice of the 500M with random weights, adapters and frames (what it says is noise, what
it costs is not), and the embedded default with real mp4 files. No benchmark stands in this file, so
its name begins with `_`.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from configs.load import load_model_config
from tasks.exam import FIRST_SEED, decoded_segments
from tasks.models import load_model
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.compose import concat, with_bias
from video2lora_core.internalize import internalize
from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import SMOLVLM2
from video2lora_core.random_model import RandomModel
from video2lora_core.shapes_world import ask_all, sample_world
from video2lora_core.vlm import Vlm

ARCHITECTURE = Path(__file__).parent.parent / "configs/models/smolvlm2-500m/config.json"
SEGMENT_US = 30_000_000
MAX_TOKENS = 65_536  # of the slice: 256 frames do not fit the model's own 8,192 positions
SEED = FIRST_SEED + 60_000_000  # beyond every paper of the exam, and every other benchmark
# Words that the stand-in tokenizer knows: a token each, as a real tokenizer has them.
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")


_NARROW = {
    "text_config": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
    "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """A model, and what it is asked about."""

    name: str
    vlm: Vlm
    adapters: tuple[Adapter, ...]
    """One per video, the bias included."""
    questions: tuple[tuple[str, ...], ...]
    """Of each video."""
    pixels: np.ndarray
    """Of the first video."""
    times_us: tuple[int, ...]
    """Of the first video's frames."""
    duration_us: int
    """Of the first video."""


def slice_of_500m(
    *,
    num_layers: int = 2,
    num_vision_layers: int = 1,
    num_frames: int = 12,
    num_videos: int = 16,
    size_px: int = 512,
    widths: Mapping[str, Mapping[str, int]] | None = None,
) -> Room:
    """Build the first layers of both towers with random weights, at full width if None is given."""
    content = json.loads(ARCHITECTURE.read_text(encoding="utf-8"))
    content["text_config"]["num_hidden_layers"] = num_layers
    content["text_config"]["max_position_embeddings"] = MAX_TOKENS
    content["vision_config"]["num_hidden_layers"] = num_vision_layers
    content["vision_config"]["image_size"] = size_px
    for tower, changes in (widths or {}).items():
        content[tower] |= changes
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        vlm = RandomModel(architecture=path, seed=0, tokenizer=None).load_vlm(
            layout=SMOLVLM2,
            pixel_spec=PixelSpec(longest_edge_px=min(384, size_px), size_px=size_px),
            dtype=torch.float32,
            device="cpu",
            attention="sdpa",
        )
    shape = (num_frames, 3, size_px, size_px)
    step_us = SEGMENT_US // num_frames
    return Room(
        name=f"500M, {num_layers} of 32 layers",
        vlm=vlm,
        adapters=tuple(random_adapter(vlm, rank=32, seed=seed) for seed in range(num_videos)),
        questions=tuple(tuple(_question(4 * n + k) for k in range(4)) for n in range(num_videos)),
        pixels=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        times_us=tuple(step_us * frame + step_us // 2 for frame in range(num_frames)),
        duration_us=SEGMENT_US,
    )


def random_adapter(vlm: Vlm, *, rank: int, seed: int, has_bias: bool = True) -> Adapter:
    """Draw factors whose update is a few percent of the weights."""
    generator = torch.Generator().manual_seed(seed)
    text = vlm.model.config.text_config
    lead = (text.num_hidden_layers, rank)
    factors = Factors(
        a=torch.randn(*lead, text.intermediate_size, generator=generator) * 0.02,
        b=torch.randn(*lead, text.hidden_size, generator=generator) * 0.02,
    )
    return Adapter(
        factors={"down_proj": factors},
        layers=tuple(range(text.num_hidden_layers)),
        scaling=1.0,
        checkpoint_sha256="benchmark",
        has_bias=has_bias,
    )


def _question(number: int) -> str:
    """Write between 12 and 20 words."""
    return " ".join(
        WORDS[(number * 5 + k * (number + 1)) % len(WORDS)] for k in range(12 + number % 9)
    )


def narrow_slice(*, num_videos: int = 3) -> Room:
    """Build a model of the slice's parts that says and costs nothing: does a benchmark run."""
    return slice_of_500m(
        num_layers=1, num_frames=2, num_videos=num_videos, size_px=64, widths=_NARROW
    )


def asked(room: Room, count: int) -> tuple[list[str], list[Adapter]]:
    """Return so many questions, going round the videos, and each one's adapter."""
    rows = []
    for number in range(count):
        video = number % len(room.adapters)
        of_video = room.questions[video]
        text = of_video[number // len(room.adapters) % len(of_video)]
        rows.append((text, room.adapters[video]))
    return [text for text, _ in rows], [adapter for _, adapter in rows]


def embedded_default(*, num_videos: int = 16, num_segments: int = 1) -> Room:
    """Render videos as mp4 files, decode and internalize them; adapters are exact sums."""
    config = load_model_config("tiny")
    model = load_model(config)
    adapters, questions, first = [], [], None
    for number in range(num_videos):
        world = sample_world(SEED + 1000 * num_segments + number, num_scenes=num_segments)
        frames = decoded_segments(world, config, seed=number)
        made = internalize(
            model.vlm, model.hypernetwork, frames, checkpoint_sha256=model.checkpoint.sha256
        )
        adapters.append(with_bias(concat(made), model.bias()))
        questions.append(tuple(question.text for question in ask_all(world, seed=0)))
        first = first or (frames, world.duration_us)
    assert first is not None
    return Room(
        name=f"embedded default, {num_segments} segments",
        vlm=model.vlm,
        adapters=tuple(adapters),
        questions=tuple(questions),
        pixels=np.concatenate([part.pixels for part in first[0]]),
        times_us=tuple(time for part in first[0] for time in part.times_us),
        duration_us=first[1],
    )


def in_bfloat16(vlm: Vlm) -> Vlm:
    """Return the VLM with weights of its own in bfloat16."""
    twin = type(vlm.model)(vlm.model.config)
    twin.load_state_dict(vlm.model.state_dict())
    twin.requires_grad_(requires_grad=False)
    return replace(vlm, model=twin.to(torch.bfloat16).eval())
