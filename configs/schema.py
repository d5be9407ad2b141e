"""The files a user writes: a model config (what makes adapters), a run config (what goes where).

Both are pydantic models that forbid unknown keys at every level, so a misspelt key is refused by
its name. Every path in a model config is relative to that file. What decides an adapter's content
is hashed into its recipe (`tasks.recipe`); what decides only speed or place (device, batch size,
engine) is not.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.approximation_schema import ApproximationConfig
from video2lora_core.errors import Reason

REJECTS = "catalog:rejects"
CATALOG = "catalog:videos"
# Below this the limit could not be told from a damaged file (video2lora_core/memory_limit.py).
MIN_MEMORY_BYTES = 512 * 1024**2
MAX_UNIT_SEGMENTS = 64  # a unit is redone whole after a kill, and its rows are one append per table


class _Strict(BaseModel):
    """Refuses unknown keys and cannot be changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class VlmConfig(_Strict):
    """The frozen vision-language model: a directory, or a hub id with a pinned revision."""

    path: str | None = None
    """Directory with the model's weights and tokenizer, relative to the model config."""
    hub_id: str | None = None
    """Hub id, used in place of `path`; then `revision` is required."""
    revision: str | None = None
    """Commit hash of the hub repository: a branch name would change under a recipe."""
    architecture: str | None = None
    """A config.json for random weights, relative to the model config; the one in `path` if not
    set."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the frozen model and of the hypernetwork's perceiver; what follows the
    perceiver, and the factors, are float32."""
    device: str = "auto"
    """`auto` takes the first CUDA device, else the CPU; or any torch device string."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel; provenance, not identity."""
    cpu_threads: Annotated[int, Field(gt=0)] | None = None
    """Threads that torch uses in the whole process; its own choice when not set. A tiny model
    wants one: where another process holds a core, two wait for each other at every operation."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub_id is None):
            raise ValueError("exactly one of `path` and `hub_id` must be set")
        if self.hub_id is not None and self.revision is None:
            raise ValueError("`hub_id` needs `revision`, the commit hash to load")
        return self


class ReleasedConfig(_Strict):
    """Where the hypernetwork's published checkpoint is, for those who do not have it yet."""

    hub_id: str
    """Hub repository."""
    file: str
    """The `.pt` file in it, for `video2lora import-checkpoint`."""


class PixelConfig(_Strict):
    """How a frame becomes the model's pixels (METHOD.md, Frames to pixels)."""

    longest_edge_px: Annotated[int, Field(gt=0)]
    """First resize: the longest edge goes here, the aspect is kept."""
    size_px: Annotated[int, Field(gt=0)]
    """Second resize: the frame is squashed to this square, the model's own or a smaller multiple of
    patch size x pixel shuffle."""
    resize: Literal["torch", "pil"] = "torch"
    """Which Lanczos; they differ by at most 3/255 on under 3% of the values."""


class SegmentConfig(_Strict):
    """How a video is cut: segments tile [0, duration) without gap or overlap."""

    segment_s: Annotated[float, Field(gt=0)] = 30.0
    """Length of a segment."""
    min_tail_s: Annotated[float, Field(ge=0)] = 10.0
    """A last segment shorter than this joins the one before it."""
    num_frames: Annotated[int, Field(gt=0)] = 12
    """Frames per segment, at the centres of equal sub-spans."""

    @model_validator(mode="after")
    def _tail_fits(self) -> Self:
        if self.min_tail_s > self.segment_s:
            raise ValueError("`min_tail_s` must not exceed `segment_s`")
        return self

    @property
    def segment_us(self) -> int:
        """Length of a segment in microseconds."""
        return round(self.segment_s * 1_000_000)

    @property
    def min_tail_us(self) -> int:
        """Shortest tail in microseconds."""
        return round(self.min_tail_s * 1_000_000)


class ModelConfig(_Strict):
    """One frozen model with its hypernetwork: everything that decides what an adapter contains."""

    name: Annotated[str, Field(min_length=1)]
    """Shown to people; not part of the identity."""
    vlm: VlmConfig
    """The frozen model that watches and answers."""
    checkpoint: Path
    """Directory of the trained hypernetwork, relative to the model config; `~` is the home."""
    released: ReleasedConfig | None = None
    """Where a published checkpoint for `checkpoint` can be had; shown where it is missing."""
    random_seed: Annotated[int, Field(ge=0)] | None = None
    """Draws random weights in place of the VLM's and the hypernetwork's, which are then not needed:
    for benchmarks and tests. `--random-weights` sets it to 0."""
    pixels: PixelConfig
    """How frames become pixels."""
    prompt: Literal["smolvlm2"] | dict[str, str] = "smolvlm2"
    """SmolVLM2's own template strings, or the fields of `video2lora_core.prompts.PromptLayout`."""
    segments: SegmentConfig = SegmentConfig()
    """How videos are cut and sampled."""
    batch_segments: Annotated[int, Field(gt=0)] = 16
    """Segments per device batch, of one or several videos."""


class DecodeConfig(_Strict):
    """How much a video may cost while it is decoded; what goes beyond becomes a reject."""

    workers: Annotated[int, Field(ge=0)] = 2
    """Child processes that decode for one shard; 0 decodes in the process itself, where nothing can
    be killed: only the limits on files, frames and lengths hold."""
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """Longest wait for an answer: for 30 s of video, for a GiB of file, more in proportion."""
    cpu_s: Annotated[float, Field(gt=0)] = 240.0
    """Most processor time for an answer, in the same proportion."""
    memory_bytes: Annotated[int, Field(ge=MIN_MEMORY_BYTES)] = 2 * 1024**3
    """Address space for decoding, beyond what a child has once it is ready; held on Linux only."""
    max_pixels: Annotated[int, Field(gt=0)] = 139264 * 256
    """Largest frame, width times height; the default is that of H.264 level 6.2."""
    max_duration_s: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """Longest video."""
    max_file_bytes: Annotated[int, Field(gt=0)] = 256 * 1024**3
    """Largest file."""
    videos_per_child: Annotated[int, Field(gt=0)] = 256
    """After so many videos a child is replaced, with whatever its libraries have leaked."""
    scratch_bytes: Annotated[int, Field(gt=0)] = 64 * 1024**3
    """Most disk that a shard takes for copies of remote videos; one that is larger is rejected."""
    ahead_segments: Annotated[int, Field(ge=0)] = 64
    """How far decoding may run ahead of the end of the oldest unit that is not committed: a kill
    costs at most a unit and these. At `batch_segments` and above, batches are full."""


class InternalizeConfig(_Strict):
    """One run: which videos, with which model, into which lake."""

    corpus: Annotated[str, Field(min_length=1)]
    """A directory, a glob, a video, or a manifest (.parquet, .jsonl, .csv); or what the lake's own
    catalog lists: `catalog:rejects` tries again what was rejected, `catalog:videos` goes over all
    videos, which is how a lake follows to a new recipe."""
    lake: Annotated[str, Field(min_length=1)]
    """The lake's root: a directory or s3://bucket/prefix."""
    model: Annotated[str, Field(min_length=1)] = "tiny"
    """A name under configs/models or the path of a model config."""
    random_weights: bool = False
    """Use the model's architecture with random weights; its adapters are marked `is_random`."""
    corpus_name: str | None = None
    """What the catalog calls the corpus; `corpus` itself where it has no name."""
    engine: Literal["auto", "local", "prefect"] = "auto"
    """`auto` is `prefect` where a Prefect API is configured, else `local`."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """PyAV is right on every tested format; decord is wrong on HEVC, MPEG-TS and WMV."""
    decode: DecodeConfig = DecodeConfig()
    """Where and within which limits videos are decoded."""
    stored_dtype: Literal["bfloat16", "float32", "int8"] = "bfloat16"
    """Type of the stored factors; int8 has one float32 scale per rank row (docs/quality.md)."""
    approximations: ApproximationConfig = ApproximationConfig()
    """What is given up for speed or size; nothing by default."""
    keep_visual_tokens: bool = False
    """Keep what the vision tower saw in the lake, and take what is there: a later run with another
    checkpoint, prompt or `stored_dtype` then decodes nothing (docs/pipeline.md)."""
    batch_segments: Annotated[int, Field(gt=0)] | None = None
    """Segments per device batch; the model config's own when not set."""
    unit_segments: Annotated[int, Field(gt=0, le=MAX_UNIT_SEGMENTS)] = MAX_UNIT_SEGMENTS
    """Segments that are committed together."""
    shards: Literal["here", "deployment"] = "here"
    """Where shards are done: in the run's own process, one after the other, or each as a run of the
    deployment internalize-shard/shard, on whichever worker is free (docs/operating.md)."""
    shard_bytes: Annotated[int, Field(gt=0)] = 8 * 1024**3
    """A shard takes videos until their files reach this size."""
    shard_videos: Annotated[int, Field(gt=0)] = 1000
    """... or until it holds this many videos,"""
    shard_hours: Annotated[float, Field(gt=0)] = 24.0
    """... or this many hours of video, where a manifest gives their durations."""
    retry_reasons: tuple[Reason, ...] = ()
    """With `catalog:rejects`: only rejects of these reasons, those that are final included."""
    price_per_device_hour: Annotated[float, Field(ge=0)] | None = None
    """What an hour of a device costs, in any currency; `video2lora plan` multiplies with it."""

    @model_validator(mode="after")
    def _reasons_are_used(self) -> Self:
        if self.retry_reasons and self.corpus != REJECTS:
            raise ValueError(f"`retry_reasons` needs `corpus: {REJECTS}`")
        return self

    @model_validator(mode="after")
    def _decoder_can(self) -> Self:
        if self.approximations.frames == "keyframes" and self.decoder != "pyav":
            raise ValueError("`approximations.frames: keyframes` needs `decoder: pyav`")
        return self
