"""The training config: how the embedded default is made from nothing, stage by stage."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]


class _Strict(BaseModel):
    """Refuses unknown keys and cannot be changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScheduleConfig(_Strict):
    """How a stage is optimised: AdamW, linear warm-up, cosine."""

    steps: Positive
    """Optimiser steps of the stage."""
    learning_rate: Annotated[float, Field(gt=0)]
    """The highest learning rate."""
    warmup_steps: Positive = 50
    """Steps of linear warm-up."""
    weight_decay: Share = 0.01
    """AdamW's, on matrices only."""
    save_every: Positive = 250
    """Steps between two saved states: what a kill can cost."""
    log_every: Positive = 25
    """Steps averaged into one line of the log."""


class VlmStagesConfig(_Strict):
    """Stages 0 and 1: the embedded VLM."""

    see: ScheduleConfig
    """Stage 0: the vision tower learns what a frame shows."""
    answer: ScheduleConfig
    """Stage 1: all of it learns to answer with the video in context."""
    frame_weight: Share = 0.5
    """Weight of the frame read-out's loss in stage 1."""
    motion_weight: Share = 0.5
    """Weight of the motion read-out's loss in stage 1."""
    guidance_weight: Share = 0.5
    """Weight of the attention guidance in stage 1."""


class HypernetworkStageConfig(_Strict):
    """Stage 2: the hypernetwork over the frozen VLM."""

    schedule: ScheduleConfig
    """How it is optimised."""
    layers: tuple[Annotated[int, Field(ge=0)], ...]
    """Decoder layers that get an update; leaving out the last one makes compositions hold."""
    rank: Positive
    """Rank of a segment's adapter; the scaling is 2 rank^1.5."""
    d_latent: Positive
    """Width of the latents."""
    num_latents: Positive
    """Latents of the perceiver."""
    num_cross_blocks: Positive
    """Cross-attention blocks of the perceiver."""
    solo_steps: Annotated[int, Field(ge=0)] = 0
    """Steps at the start in which every segment is asked about alone."""
    groups: Positive = 6
    """Groups of 8 segments per step."""
    rows_per_group: Positive = 4
    """Random subsets of a group that are composed and asked, per step."""
    questions_per_row: Positive = 9
    """Questions per composition."""
    ownership_weight: Share = 0.25
    """Weight of the ownership loss."""
    readout_weight: Share = 0.5
    """Weight of the read-out of the hypernetwork's embeddings."""


class TrainConfig(_Strict):
    """One training run, from nothing to a model directory."""

    model: str
    """The model config that will use the result: prompt layout, pixels and segments are its."""
    seed: Annotated[int, Field(ge=0)]
    """Decides the initial weights and every batch."""
    threads: Positive = 2
    """Threads of the CPU kernels."""
    out: Path
    """Where states, logs, curves and the finished model go; `--out` wins over it."""
    vlm: VlmStagesConfig
    """Stages 0 and 1."""
    hypernetwork: HypernetworkStageConfig
    """Stage 2."""
