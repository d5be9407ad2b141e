"""The evaluation config: which questions, in which modes, and what is varied beside them.

Either the videos of the shapes world are rendered (`exam`), or questions and videos are the user's
own (`questions`, and `corpus` where the lake does not hold the videos yet). Every other section may
be left out, and then that part of the report is not measured.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
Positives = tuple[Positive, ...]
Mode = Literal["adapter", "in-context", "in-context-kv-cache", "blind"]


class _Strict(BaseModel):
    """Refuses unknown keys and cannot be changed after it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExamConfig(_Strict):
    """Videos of the shapes world that no training saw, rendered as mp4 files with questions."""

    directory: Path
    """Where the videos and the question file go; what is there already is kept."""
    videos_by_scenes: dict[Positive, Positive] = {1: 64, 2: 16, 4: 16, 8: 16}
    """How many videos there are of so many scenes, each 4 s long."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed, other videos."""


class CostConfig(_Strict):
    """What an answer costs, against the number of frames that it rests on."""

    num_frames: Positives = (8, 16, 32, 64)
    """Frames of a video, in the prompt or internalized, one measurement each."""
    num_questions: Positives = (1, 2, 5, 15, 50, 200)
    """Questions per video over which the cost of preparing it is spread."""
    num_videos: Positive = 2
    """Videos measured: the longest ones."""
    repeats: Positive = 7
    """Times that each video's question is asked in every mode, in turns; medians are reported."""


class CompositionConfig(_Strict):
    """How answers hold as more segments are composed."""

    num_segments: Positives = (1, 2, 4, 8)
    """Videos of so many segments are asked about."""
    num_videos: Positive = 16
    """Videos for each number of segments."""
    svd_rank: Positive = 16
    """Rank that the sum is reduced to, as one of the ways."""


class RanksConfig(_Strict):
    """Which ranks of an adapter carry the answer."""

    num_ranks: Positives = (1, 2, 4, 6)
    """How many slices of a segment's rank are kept, or taken away, by |A_r| |B_r|."""
    num_videos: Positive = 16
    """Videos asked about."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides which slices `random` keeps."""


class SweepConfig(_Strict):
    """Frames x resolution: each cell is a recipe of its own, internalized and answered anew."""

    num_frames: Positives = (2, 4, 8, 16)
    """Frames per segment."""
    longest_edge_px: Positives = (12, 16, 24, 48)
    """Longest edge of a frame before it is squashed to the model's square."""
    num_videos: Positive = 12
    """Videos asked about in every cell."""
    is_single_pass: bool = False
    """Takes every video as one segment, however long, as the paper does."""


class EvaluateConfig(_Strict):
    """One evaluation: its questions, its modes, its margins."""

    lake: Annotated[str, Field(min_length=1)]
    """The lake's root: adapters are read from it, and `answers` and `evaluations` go into it."""
    model: Annotated[str, Field(min_length=1)] = "tiny"
    """A name under configs/models or the path of a model config."""
    exam: ExamConfig | None = None
    """Renders videos and questions of the shapes world."""
    corpus: str | None = None
    """Videos to internalize first; not needed where the lake holds their adapters."""
    questions: str | None = None
    """A question set: .parquet, .jsonl, .csv."""
    engine: Literal["auto", "local", "prefect"] = "auto"
    """`auto` is `prefect` where a Prefect API is configured, else `local`."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] = (
        "adapter",
        "in-context",
        "in-context-kv-cache",
        "blind",
    )
    """Modes that are compared; `adapter` is held against `in-context` where both are given."""
    has_control: bool = True
    """Also asks every question of another video's adapter."""
    max_new_tokens: Positive = 32
    """Longest answer."""
    margins: dict[str, Annotated[float, Field(gt=0)]] = {"token_f1": 0.05, "judge": 0.15}
    """By metric, the difference that would be tolerated; verdicts are computed at these."""
    num_resamples: Positive = 10_000
    """Resamples of the bootstrap behind every interval."""
    num_examples: Annotated[int, Field(ge=0)] = 8
    """Questions that the report shows with frames and the answers of every mode."""
    cost: CostConfig | None = None
    """Time to first token, prompt tokens and amortised cost."""
    composition: CompositionConfig | None = None
    """Accuracy against the number of segments composed."""
    ranks: RanksConfig | None = None
    """Accuracy against the ranks kept."""
    sweep: SweepConfig | None = None
    """Accuracy over frames and resolution."""

    @model_validator(mode="after")
    def _one_question_set(self) -> Self:
        if (self.exam is None) == (self.questions is None):
            raise ValueError("exactly one of `exam` and `questions` must be set")
        if self.exam is not None and self.corpus is not None:
            raise ValueError("`corpus` goes with `questions`; an exam renders its own videos")
        return self
