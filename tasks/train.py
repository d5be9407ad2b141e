"""Train the embedded default from nothing, resumably: see, answer, then the hypernetwork.

A stage leaves its states and its log under OUT/<stage>; the finished model is OUT/vlm and
OUT/hypernetwork, the two directories that a model config points to. The VLM is rounded to
bfloat16, the type it is shipped in, before the hypernetwork is trained on it.
"""

import json
import logging
from pathlib import Path

import torch
from pydantic import BaseModel

from configs.load import load_config, load_model_config
from configs.schema import ModelConfig
from configs.train_schema import ScheduleConfig, TrainConfig
from tasks.models import pixel_spec, prompt_layout
from video2lora_core.checkpoint import save_checkpoint
from video2lora_core.errors import UsageError
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    TargetModule,
    reference_scaling,
)
from video2lora_core.shapes_world.tokenizer import build_tokenizer
from video2lora_core.shapes_world.world import COLOURS, MOTIONS, SHAPES
from video2lora_core.training.curves import draw_curves
from video2lora_core.training.embedded_vlm import TrainingHeads, build_vlm
from video2lora_core.training.hypernetwork_stage import HypernetworkStage
from video2lora_core.training.loop import Report, Schedule, Stage, run_stage
from video2lora_core.training.readout import SegmentReadout
from video2lora_core.training.vlm_stage import VlmStage
from video2lora_core.vlm import Vlm, load_vlm

logger = logging.getLogger(__name__)

# scalers and biases start at or near zero and are few: they learn three times as fast
FAST_PARAMETERS = {"bias_A": 3.0, "bias_B": 3.0, "scaler_": 3.0}


def run(
    config_path: Path,
    *,
    out: Path | None = None,
    resume: bool = True,
    report: Report | None = None,
) -> Path:
    """Train as a training config's file says; see `train_embedded`."""
    config = load_config(config_path, TrainConfig)
    return train_embedded(config, out=out, resume=resume, report=report)


def train_embedded(
    config: TrainConfig,
    *,
    out: Path | None = None,
    resume: bool = True,
    report: Report | None = None,
) -> Path:
    """Train as a training config says; return the directory with the finished model.

    With `resume`, a stage goes on from its newest saved state and a finished stage is not run
    again.
    """
    directory = out or config.out
    keep_config(config, directory, resume=resume)
    torch.set_num_threads(config.threads)
    model_config = load_model_config(config.model)
    train_vlm(config, directory, resume=resume, report=report)
    vlm = load_vlm(
        directory / "vlm", layout=prompt_layout(model_config), pixel_spec=pixel_spec(model_config)
    )
    train_hypernetwork(config, model_config, vlm, directory, resume=resume, report=report)
    draw_curves(directory, directory / "curves.png")
    return directory


def keep_config(config: BaseModel, directory: Path, *, resume: bool) -> None:
    """Write the config beside the states; refuse to go on from states of another one."""
    text = config.model_dump_json(exclude={"out"}, indent=1) + "\n"
    kept = directory / "config.json"
    if resume and kept.exists() and kept.read_text(encoding="utf-8") != text:
        raise UsageError(
            f"{directory}: was trained with another config ({kept} differs); give another --out, "
            "or --no-resume to start again"
        )
    directory.mkdir(parents=True, exist_ok=True)
    kept.write_text(text, encoding="utf-8")


def train_vlm(config: TrainConfig, directory: Path, *, resume: bool, report: Report | None) -> None:
    """Run stages 0 and 1 and write OUT/vlm: config, bfloat16 weights, tokenizer."""
    tokenizer = build_tokenizer()
    model = build_vlm(seed=config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        heads = TrainingHeads(
            num_shapes=len(SHAPES), num_colours=len(COLOURS), num_motions=len(MOTIONS)
        )
    stage = VlmStage(
        model,
        heads,
        tokenizer,
        seed=config.seed,
        frame_weight=config.vlm.frame_weight,
        motion_weight=config.vlm.motion_weight,
        guidance_weight=config.vlm.guidance_weight,
    )
    core = model.model
    see = Stage(
        name="see",
        modules={"vlm": core.vision_model, "connector": core.connector, "heads": heads},
        step=stage.see,
        schedule=_schedule(config.vlm.see),
        directory=directory / "see",
        rate_factors={},
    )
    answer = Stage(
        name="answer",
        modules={"vlm": model, "heads": heads},
        step=stage.answer,
        schedule=_schedule(config.vlm.answer),
        directory=directory / "answer",
        rate_factors={},
    )
    run_stage(see, resume=resume, report=report)
    run_stage(answer, resume=resume, report=report)
    model.to(torch.bfloat16).save_pretrained(directory / "vlm")
    tokenizer.save_pretrained(directory / "vlm")


def train_hypernetwork(
    config: TrainConfig,
    model_config: ModelConfig,
    vlm: Vlm,
    directory: Path,
    *,
    resume: bool,
    report: Report | None,
) -> None:
    """Run stage 2 over the frozen VLM and write OUT/hypernetwork."""
    hypernetwork = build_hypernetwork(config, vlm)
    readout = _build_readout(config)
    stage = HypernetworkStage(
        vlm.model,
        hypernetwork,
        vlm.tokenizer,
        internalization_prompt=vlm.layout.internalization_prompt,
        seed=config.seed + 2,
        groups=config.hypernetwork.groups,
        rows_per_group=config.hypernetwork.rows_per_group,
        questions_per_row=config.hypernetwork.questions_per_row,
        solo_steps=config.hypernetwork.solo_steps,
        ownership_weight=config.hypernetwork.ownership_weight,
        readout=readout,
        readout_weight=config.hypernetwork.readout_weight,
    )
    run_stage(
        Stage(
            name="hypernetwork",
            modules={"hypernetwork": hypernetwork, "readout": readout},
            step=stage.step,
            schedule=_schedule(config.hypernetwork.schedule),
            directory=directory / "internalize",
            rate_factors=FAST_PARAMETERS,
        ),
        resume=resume,
        report=report,
    )
    info = {
        "vlm_weights_sha256": vlm.weights_sha256,
        "internalization_prompt": vlm.layout.internalization_prompt,
        "segments": model_config.segments.model_dump(),
        "training": json.loads(config.model_dump_json(exclude={"out"})),
    }
    sha256 = save_checkpoint(
        directory / "hypernetwork", hypernetwork, info=info, dtype=torch.bfloat16
    )
    logger.info("hypernetwork: checkpoint %s written to %s", sha256, directory)


def build_hypernetwork(config: TrainConfig, vlm: Vlm) -> Hypernetwork:
    """Build the configured hypernetwork for a VLM, freshly initialised from the config's seed."""
    text = vlm.model.config.text_config
    shape = HypernetworkConfig(
        d_model=vlm.d_model,
        layers=config.hypernetwork.layers,
        modules=(TargetModule(name="down_proj", d_in=text.intermediate_size, d_out=vlm.d_model),),
        rank=config.hypernetwork.rank,
        scaling=reference_scaling(config.hypernetwork.rank),
        d_latent=config.hypernetwork.d_latent,
        num_latents=config.hypernetwork.num_latents,
        num_cross_blocks=config.hypernetwork.num_cross_blocks,
    )
    return Hypernetwork(shape, generator=torch.Generator().manual_seed(config.seed))


def _build_readout(config: TrainConfig) -> SegmentReadout:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed + 1)
        return SegmentReadout(
            num_layers=len(config.hypernetwork.layers),
            rank=config.hypernetwork.rank,
            d_latent=config.hypernetwork.d_latent,
        )


def _schedule(config: ScheduleConfig) -> Schedule:
    return Schedule(**config.model_dump())
