"""The embedded default's architecture, taught in a second: some answers right, some not.

A random model says nothing that ends; a trained one takes an hour. This one has seen a few
questions about two videos, so that greedy answers are short, differ and are sometimes right.
"""

import functools
import tempfile
from pathlib import Path

import torch

from configs.load import load_model_config
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    TargetModule,
    reference_scaling,
)
from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import PromptLayout
from video2lora_core.shapes_world import Question, World, ask_all, sample_world
from video2lora_core.shapes_world.tokenizer import build_tokenizer
from video2lora_core.training.batches import BlockWriter, Films, shoot
from video2lora_core.training.embedded_vlm import (
    IMAGE_TOKENS,
    build_vlm,
    embed,
    label_logits,
    run_decoder,
    visual_tokens,
)
from video2lora_core.training.rows import answer_loss, pack
from video2lora_core.vlm import Vlm, load_vlm

RANK, LAYERS = 2, (0, 1, 2)


def school_worlds() -> list[World]:
    return [sample_world(seed, num_scenes=1) for seed in (1, 2)]


def school_questions(world: World) -> list[Question]:
    return [question for question in ask_all(world, seed=0) if question.kind != "caption"]


@functools.cache
def school_films() -> Films:
    return shoot(school_worlds(), seed=0)


@functools.cache
def schooled_vlm() -> Vlm:
    """The model after 16 steps; shared by all tests, so change nothing."""
    model, tokenizer = build_vlm(seed=1), build_tokenizer()
    writer, films = BlockWriter(tokenizer), school_films()
    questions = [school_questions(world) for world in films.worlds]
    blocks = [
        [write(q) for q in qs for write in (writer.in_context, writer.query)] for qs in questions
    ]
    prefix = writer.video(1, image_tokens=IMAGE_TOKENS)
    rows = pack(blocks, prefix_ids=prefix, pad_id=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(16):
        visual = visual_tokens(model, films.frames).flatten(0, 1)
        trace = run_decoder(model, embed(model, rows.ids, visual), rows)
        loss, _ = answer_loss(label_logits(model, trace, rows), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return load_embedded(Path(directory))


def load_embedded(directory: Path) -> Vlm:
    """Load a VLM with the prompt layout and the pixels of the `tiny` model config."""
    config = load_model_config("tiny")
    assert isinstance(config.prompt, dict)
    return load_vlm(
        directory,
        layout=PromptLayout.from_mapping(config.prompt),
        pixel_spec=PixelSpec(**config.pixels.model_dump()),
    )


def build_hypernetwork(*, strength: float = 0.0, seed: int = 0) -> Hypernetwork:
    """A random small hypernetwork; `strength` makes its updates matter (0: as training starts)."""
    vlm = schooled_vlm()
    width = vlm.model.config.text_config.intermediate_size
    config = HypernetworkConfig(
        d_model=vlm.d_model,
        layers=LAYERS,
        modules=(TargetModule(name="down_proj", d_in=width, d_out=vlm.d_model),),
        rank=RANK,
        scaling=reference_scaling(RANK),
        d_latent=32,
        num_latents=4,
        num_cross_blocks=1,
    )
    hypernetwork = Hypernetwork(config, generator=torch.Generator().manual_seed(seed))
    if strength:
        for name, parameter in hypernetwork.named_parameters():
            if name.startswith(("scaler_B", "bias_B")):
                generator = torch.Generator().manual_seed(seed + len(name))
                torch.nn.init.normal_(parameter, std=strength, generator=generator)
    return hypernetwork
