"""Train a hypernetwork over a frozen model from a corpus, resumably, on one device or several.

OUT/training takes states and the log, OUT/hypernetwork the finished checkpoint, OUT/model.yaml a
model config that names it. With held-out measurements the checkpoint is the one that did best on
videos that were never trained on, else the last.
"""

import json
import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from configs.load import load_model_config
from configs.schema import ModelConfig
from configs.train_corpus_schema import CorpusTrainConfig
from storage.identity import canonical_json, sha256_hex
from storage.lake import open_lake
from storage.teacher_store import read_said
from tasks.calibrate import calibrate
from tasks.models import load_frozen
from tasks.teacher_targets import targets_of, teacher_id
from tasks.train import keep_config
from tasks.training_batches import BatchReader, Sampler
from tasks.training_frames import FrameShelf
from tasks.training_pool import PoolExample, held_out_ids, training_pool
from tasks.training_videos import TrainVideo, training_videos
from video2lora_core.checkpoint import save_checkpoint
from video2lora_core.errors import UsageError
from video2lora_core.hypernetwork import (
    Hypernetwork,
    HypernetworkConfig,
    TargetModule,
    reference_scaling,
)
from video2lora_core.training.corpus_stage import CorpusStage, LossWeights
from video2lora_core.training.loop import (
    Report,
    Schedule,
    Stage,
    named_parameters,
    run_stage,
)
from video2lora_core.training.state import load_best
from video2lora_core.training.team import Team, join_team
from video2lora_core.vlm import Vlm

logger = logging.getLogger(__name__)

Targeted = tuple[PoolExample, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Videos and what is asked about them."""

    videos: tuple[TrainVideo, ...]
    examples: tuple[Targeted, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """What is learned from, and what it is measured on."""

    learnt: Part
    held_out: Part

    @property
    def sha256(self) -> str:
        """Identify all of it, so that a resumed training goes on with the same."""
        rows = [
            [e.kind, e.key(""), target]
            for part in (self.learnt, self.held_out)
            for e, target in part.examples
        ]
        return sha256_hex(canonical_json(rows).encode())


def train_corpus(
    config: CorpusTrainConfig,
    *,
    out: Path | None = None,
    resume: bool = True,
    report: Report | None = None,
) -> Path:
    """Train as the config says; return the directory with checkpoint and model config.

    Raises:
        UsageError: targets are missing, or the directory's states are of another training.
    """
    directory, model_config = out or config.out, load_model_config(config.model)
    torch.set_num_threads(config.threads)
    team = join_team(is_cpu=not torch.cuda.is_available() or model_config.vlm.device == "cpu")
    if team.rank == 0:
        keep_config(config, directory, resume=resume)
    vlm = load_frozen(model_config)
    material = gather(config, vlm)
    if team.rank == 0:
        _keep_material(material, directory, resume=resume)
    hypernetwork = build_network(config, vlm)
    frames = FrameShelf(
        model_config, num_frames=model_config.segments.num_frames, cache_bytes=config.cache_bytes
    )
    with (
        closing(_reader(config, material.learnt, frames, stride=team.size)) as reader,
        closing(_reader(config, material.held_out, frames)) as measured,
    ):
        stage = _stage(config, vlm, hypernetwork, reader, measured, directory, team)
        run_stage(stage, resume=resume, report=report, team=team)
    if team.rank == 0:
        load_best(stage.directory, named_parameters(stage))
        _finish(config, model_config, vlm, hypernetwork, material, directory)
    team.wait()
    return directory


def gather(config: CorpusTrainConfig, vlm: Vlm) -> Material:
    """List videos, examples and targets, and hold some videos out.

    Raises:
        UsageError: targets are missing, or either side has no example.
    """
    lake = open_lake(config.lake, create=True)
    videos = training_videos(config, lake)
    teacher = teacher_id(vlm, config)
    said = {} if config.targets == "online" else read_said(lake.objects, teacher)
    pool = training_pool(config, videos, lake)
    paired, num_missing = targets_of(config, pool, said, teacher)
    if num_missing:
        raise UsageError(
            f"train: {num_missing} of {len(pool)} examples have no target yet; run `video2lora "
            "teach` with this config first"
        )
    away = held_out_ids(videos, config.held_out.share) if config.held_out.every else frozenset()
    parts = [
        Part(
            videos=tuple(v for v in videos if (v.video_id in away) == is_away),
            examples=tuple(p for p in paired if (p[0].video_id in away) == is_away),
        )
        for is_away in (False, True)
    ]
    material = Material(learnt=parts[0], held_out=parts[1])
    num_learnt, num_away = len(parts[0].examples), len(parts[1].examples)
    if not num_learnt or (away and not num_away):
        raise UsageError(
            f"train: {num_learnt} examples to learn from, {num_away} "
            f"held out, of {len(videos)} videos (expected some of both); give more videos or "
            "captions, or set `held_out.every: 0`"
        )
    return material


def build_network(
    config: CorpusTrainConfig, vlm: Vlm, *, device: torch.device | str | None = None
) -> Hypernetwork:
    """Build the configured hypernetwork for a VLM, initialised on the CPU from the seed."""
    text, shape = vlm.model.config.text_config, config.network
    layers = tuple(range(vlm.num_layers)) if shape.layers is None else shape.layers
    settings = HypernetworkConfig(
        d_model=vlm.d_model,
        layers=layers,
        modules=(TargetModule(name="down_proj", d_in=text.intermediate_size, d_out=vlm.d_model),),
        rank=shape.rank,
        scaling=reference_scaling(shape.rank),
        d_latent=shape.d_latent,
        num_latents=shape.num_latents,
        num_cross_blocks=shape.num_cross_blocks,
    )
    if device is not None:
        return Hypernetwork(settings, device=device)
    drawn = Hypernetwork(settings, generator=torch.Generator().manual_seed(config.seed))
    return drawn.to(vlm.device)


def schedule_of(config: CorpusTrainConfig, *, num_processes: int) -> Schedule:
    """Turn the config's optimiser into the loop's schedule.

    Raises:
        UsageError: the batch cannot be shared evenly.
    """
    given = config.optimiser
    accumulate, rest = divmod(given.batch, given.batch_per_process * num_processes)
    if rest or not accumulate:
        raise UsageError(
            f"train: a batch of {given.batch} examples cannot be shared by {num_processes} "
            f"processes of {given.batch_per_process} (expected a multiple of "
            f"{given.batch_per_process * num_processes}); change `optimiser.batch`"
        )
    return Schedule(
        steps=given.steps,
        learning_rate=given.learning_rate,
        warmup_steps=max(1, round(given.warmup_share * given.steps)),
        decay_to=given.decay_to,
        weight_decay=given.weight_decay,
        beta2=given.beta2,
        clip_norm=given.clip_norm,
        log_every=given.log_every,
        save_every=given.save_every,
        accumulate=accumulate,
        evaluate_every=config.held_out.every,
    )


def _stage(
    config: CorpusTrainConfig,
    vlm: Vlm,
    hypernetwork: Hypernetwork,
    reader: BatchReader,
    measured: BatchReader,
    directory: Path,
    team: Team,
) -> Stage:
    stage = CorpusStage(
        vlm,
        hypernetwork,
        reader,
        weights=LossWeights(**config.loss.model_dump()),
        max_new_tokens=config.teacher.max_new_tokens,
        is_bfloat16=config.precision == "bfloat16",
        is_recomputed=config.recompute,
    )
    return Stage(
        name="hypernetwork",
        modules={"hypernetwork": hypernetwork},
        step=stage.step,
        schedule=schedule_of(config, num_processes=team.size),
        directory=directory / "training",
        rate_factors={},
        held_out=lambda n: stage.loss_of(measured.make(f"held-out/{n}")).loss.item(),
        num_held_out=config.held_out.batches,
        is_tensorboard=config.tensorboard,
    )


def _reader(
    config: CorpusTrainConfig, part: Part, frames: FrameShelf, *, stride: int = 1
) -> BatchReader:
    return BatchReader(
        Sampler(config, part.examples, part.videos),
        frames,
        {video.video_id: video for video in part.videos},
        size=config.optimiser.batch_per_process,
        threads=config.decode_threads,
        stride=stride,
    )


def _keep_material(material: Material, directory: Path, *, resume: bool) -> None:
    """Write what is learned from beside the states; refuse to go on with something else."""
    content = {
        "sha256": material.sha256,
        "num_videos": len(material.learnt.videos),
        "num_examples": len(material.learnt.examples),
        "num_held_out_videos": len(material.held_out.videos),
        "num_held_out_examples": len(material.held_out.examples),
    }
    kept = directory / "material.json"
    if resume and kept.exists() and json.loads(kept.read_text())["sha256"] != material.sha256:
        raise UsageError(
            f"{directory}: was trained on other examples ({kept} differs): videos, questions or "
            "targets have changed since; give another --out, or --no-resume to start again"
        )
    kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = [json.dumps({"uri": video.source.uri}) + "\n" for video in material.learnt.videos]
    (directory / "videos.jsonl").write_text("".join(rows), encoding="utf-8")


def _finish(
    config: CorpusTrainConfig,
    model_config: ModelConfig,
    vlm: Vlm,
    hypernetwork: Hypernetwork,
    material: Material,
    directory: Path,
) -> None:
    """Write checkpoint and model config, then learn the bounds of the checkpoint's norms."""
    info = {
        "vlm_weights_sha256": vlm.weights_sha256,
        "internalization_prompt": vlm.layout.internalization_prompt,
        "segments": model_config.segments.model_dump(),
        "corpus_training": json.loads(config.model_dump_json(exclude={"out", "lake", "corpus"})),
        "material_sha256": material.sha256,
    }
    checkpoint = directory / "hypernetwork"
    sha256 = save_checkpoint(checkpoint, hypernetwork, info=info)
    logger.info("hypernetwork: checkpoint %s written to %s", sha256, checkpoint)
    trained = model_config.model_copy(
        update={"name": f"{model_config.name}-trained", "checkpoint": checkpoint.resolve()}
    )
    content = trained.model_dump(mode="json", exclude_none=True) | {"checkpoint": "hypernetwork"}
    (directory / "model.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    if not config.bounds_segments or trained.random_seed is not None:
        return
    try:
        calibrate(
            trained, corpus=str(directory / "videos.jsonl"), num_segments=config.bounds_segments
        )
    except UsageError as error:  # hours of training are not lost for want of a few segments
        logger.warning("no bounds were learned: %s", error)
