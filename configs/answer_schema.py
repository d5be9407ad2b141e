"""What `video2lora answer` is told: which questions, how they are answered, in what portions."""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from configs.schema import DecodeConfig

Mode = Literal["adapter", "in-context", "in-context-kv-cache", "blind"]
MODES: tuple[Mode, ...] = get_args(Mode)


class AnswerConfig(BaseModel):
    """One question set, asked in one mode of one lake."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    questions: Annotated[str, Field(min_length=1)]
    """A Parquet, JSONL or CSV file with the columns `video` and `question`, or a SELECT over the
    catalog's views that gives them."""
    lake: Annotated[str, Field(min_length=1)]
    """The lake's root: a directory or s3://bucket/prefix."""
    model: Annotated[str, Field(min_length=1)] = "tiny"
    """A name under configs/models or the path of a model config."""
    mode: Mode = "adapter"
    """`adapter` answers from adapters alone; `in-context` shows the frames with every batch of
    questions anew, `in-context-kv-cache` once per video; `blind` shows nothing."""
    strategy: Literal["compose", "route", "route-compose"] = "route-compose"
    """Which of a video's segments answer, in mode `adapter`: all, the most relevant, or a few."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 32
    """Longest answer."""
    batch_questions: Annotated[int, Field(gt=0)] = 32
    """Questions per device batch, of one or several videos."""
    unit_questions: Annotated[int, Field(gt=0)] = 256
    """Questions that are committed together: what a kill costs at most."""
    shard_units: Annotated[int, Field(gt=0)] = 16
    """Units of a shard, which one process does."""
    cache_bytes: Annotated[int, Field(gt=0)] = 2 * 1024**3
    """Most memory for adapters, or frames, that are kept for the next question."""
    internalize_missing: bool = False
    """Make the adapters that are missing first; else their questions are rejected."""
    again: bool = False
    """Ask questions again that have an answer."""
    question_set: str | None = None
    """What the catalog calls the set; `questions` itself where it has no name."""
    engine: Literal["auto", "local", "prefect"] = "auto"
    """`auto` is `prefect` where a Prefect API is configured, else `local`."""
    allow_random: bool = False
    """Use random weights and the adapters made with them: for tests and benchmarks."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """What decodes the frames of the modes that show them."""
    decode: DecodeConfig = DecodeConfig(workers=1)
    """Where and within which limits; one child process at most."""

    @model_validator(mode="after")
    def _unit_holds_a_batch(self) -> "AnswerConfig":
        if self.batch_questions > self.unit_questions:
            raise ValueError("`batch_questions` must not exceed `unit_questions`")
        return self
