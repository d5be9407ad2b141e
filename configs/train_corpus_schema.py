"""The training config of a hypernetwork over any model of ours and any corpus (docs/training.md).

`kind: corpus` tells it from the config that makes the embedded default from nothing.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from configs.load import read_mapping, validate
from configs.train_schema import Positive, Share, TrainConfig, _Strict

Shares = dict[Annotated[int, Field(ge=0)], Share]


class SpansConfig(_Strict):
    """Which spans of the videos are asked about; the shares are relative to each other."""

    scene: Share = 0.6
    """Share of spans that are one segment of the model's rule."""
    adjacent: Share = 0.3
    """Share of spans that are some neighbouring segments."""
    full: Share = 0.1
    """Share of spans that are the whole video."""
    max_adjacent: Annotated[int, Field(ge=2)] = 4
    """Most segments of an adjacent span."""
    per_video: Positive = 8
    """Spans with a caption prompt that are drawn of each video."""


class ComposeConfig(_Strict):
    """What is composed for an example; shares by number of segments."""

    pieces: Shares = Field(default={1: 1.0})
    """Into how many segments the span asked about is cut; never more than it has tiles."""
    distractors: Shares = Field(default={0: 1.0})
    """How many segments of other videos or spans join it, for questions only: a caption says what
    is there, and more would be there then."""


class TeacherConfig(_Strict):
    """What the frozen model itself says, with the frames in context."""

    num_frames: Positive = 12
    """Frames of the span that it sees, evenly spaced."""
    max_new_tokens: Positive = 64
    """How much it may say."""
    shards: Positive = 1
    """Into how many pieces of work the videos are divided."""
    unit_examples: Positive = 64
    """Examples written as one file: what a kill can cost."""


class LossConfig(_Strict):
    """What is learned from."""

    cross_entropy: Share = 1.0
    """Weight of the cross-entropy on the target."""
    kl: Share = 0.0
    """Weight of the KL divergence to the teacher with the frames in context."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the KL: both sides' logits are divided by it, the loss multiplied by its square."""


class NetworkConfig(_Strict):
    """The hypernetwork's shape."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Decoder layers that get an update; all where not given."""
    rank: Positive = 16
    """Rank of a segment's adapter; the scaling is 2 rank^1.5."""
    d_latent: Positive = 512
    """Width of the latents."""
    num_latents: Positive = 8
    """Latents of the perceiver."""
    num_cross_blocks: Positive = 9
    """Cross-attention blocks of the perceiver."""


class OptimiserConfig(_Strict):
    """AdamW, linear warm-up, cosine to nothing."""

    steps: Positive
    """Optimiser steps."""
    batch: Positive
    """Examples per step, over all processes."""
    batch_per_process: Positive = 1
    """Examples that one process holds at once; the rest of the batch is accumulated."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """The highest learning rate."""
    warmup_share: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of the steps that warm up."""
    decay_to: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The last learning rate as a share of the highest."""
    weight_decay: Share = 0.01
    """AdamW's, on matrices only."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """AdamW's second momentum."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    save_every: Positive = 250
    """Steps between two saved states: what a kill can cost."""
    log_every: Positive = 25
    """Steps averaged into one line of the log."""


class HeldOutConfig(_Strict):
    """Videos that are never trained on; the checkpoint that does best on them is kept."""

    share: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the videos, chosen by their ids; at least one."""
    every: Annotated[int, Field(ge=0)] = 250
    """Steps between two measurements; 0 measures nothing and the last parameters count."""
    batches: Positive = 16
    """Batches of `batch_per_process` examples that are measured."""


class CorpusTrainConfig(_Strict):
    """One training of a hypernetwork over a frozen model, from videos and prompts."""

    kind: Literal["corpus"]
    """Tells this config from the embedded default's."""
    model: Annotated[str, Field(min_length=1)]
    """The frozen model, its prompts, pixels and segments: a name under configs/models or a path.
    Its checkpoint is not read; `random_seed` in it draws random weights."""
    lake: Annotated[str, Field(min_length=1)]
    """Where the teacher's answers are kept, and what `catalog:videos` lists."""
    corpus: Annotated[str, Field(min_length=1)] = "catalog:videos"
    """A directory, a glob, a video, a manifest, or the videos that the lake's catalog lists."""
    out: Path
    """Where states, logs and the finished checkpoint go; `--out` wins over it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides the initial weights, the spans and every batch."""
    threads: Positive = 1
    """Threads of the CPU kernels."""
    captions: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Prompts that are put to spans, one drawn for each."""
    questions: str | None = None
    """A question set: a file, or a SELECT over the lake's views."""
    caption_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the examples that are captions, where there are questions too."""
    targets: Literal["teacher", "reference", "online"] = "teacher"
    """What is learned: the teacher's cached answers; the set's references (questions without one,
    and captions, take the teacher's); or what the teacher says at that moment, which only the KL
    may learn from (self-distillation)."""
    spans: SpansConfig = SpansConfig()
    """Which spans are asked about."""
    compose: ComposeConfig = ComposeConfig()
    """What is composed for an example."""
    teacher: TeacherConfig = TeacherConfig()
    """How the teacher is asked."""
    loss: LossConfig = LossConfig()
    """What is learned from."""
    network: NetworkConfig = NetworkConfig()
    """The hypernetwork's shape."""
    optimiser: OptimiserConfig
    """How it is optimised."""
    held_out: HeldOutConfig = HeldOutConfig()
    """How the best checkpoint is chosen."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Autocast of perceiver and frozen blocks; parameters and losses stay float32."""
    recompute: bool = False
    """Compute the perceiver again in the backward pass: slower, a fraction of the memory."""
    cache_bytes: Annotated[int, Field(ge=0)] = 2 * 1024**3
    """Decoded frames that are kept in memory."""
    decode_threads: Positive = 2
    """Threads that decode the next batch meanwhile."""
    tensorboard: bool = False
    """Write TensorBoard's files beside the log."""
    bounds_segments: Annotated[int, Field(ge=0)] = 256
    """Segments of the corpus on which the bounds of the quality gate are learned at the end; 0
    learns none (`video2lora calibrate` does it later)."""

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if not self.captions and self.questions is None:
            raise ValueError("give `captions`, `questions` or both: something must be asked")
        if not self.loss.cross_entropy and not self.loss.kl:
            raise ValueError("`loss.cross_entropy` and `loss.kl` are both 0; nothing is learned")
        if self.targets == "online" and self.loss.cross_entropy:
            raise ValueError("`targets: online` learns by KL alone; set `loss.cross_entropy: 0`")
        if self.optimiser.batch % self.optimiser.batch_per_process:
            raise ValueError("`optimiser.batch` must be a multiple of `batch_per_process`")
        for name, shares in (
            ("pieces", self.compose.pieces),
            ("distractors", self.compose.distractors),
        ):
            if not sum(shares.values()) or (name == "pieces" and 0 in shares):
                raise ValueError(f"`compose.{name}` needs a positive share (pieces: from 1 on)")
        return self


def load_train_config(path: Path) -> TrainConfig | CorpusTrainConfig:
    """Read a training config of either kind.

    Raises:
        UsageError: the file is missing, is no YAML mapping, or does not fit its schema.
    """
    values: dict[str, Any] = read_mapping(path)
    if values.get("kind") == "corpus":
        return validate(values, CorpusTrainConfig, where=str(path))
    return validate(values, TrainConfig, where=str(path))
