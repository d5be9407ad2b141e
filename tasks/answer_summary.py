"""What the steps of answering return: ids, counts and seconds."""

from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPlanSummary:
    """What is asked, and what of it is left to do."""

    run_id: str
    """sha256 of the plan; the same for every attempt."""
    num_questions: int
    """Rows of the question set."""
    num_videos: int
    """Videos that they are about."""
    num_shards: int
    """Shards to do; 0 where every question has its answer or its reject for good."""
    seconds: float
    """Wall time of planning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerShardSummary:
    """What one attempt did in one shard, or in several added up."""

    num_answered: int = 0
    """Questions answered in this attempt: model work."""
    num_known: int = 0
    """Questions that had their answer before."""
    num_rejected: int = 0
    """Rejects written in this attempt."""
    num_units: int = 0
    """Units committed in this attempt."""
    num_adapters_read: int = 0
    """Adapter files read."""
    wall_s: float = 0.0
    """Wall time."""

    def __add__(self, other: Self) -> "AnswerShardSummary":
        """Add two summaries."""
        return AnswerShardSummary(
            num_answered=self.num_answered + other.num_answered,
            num_known=self.num_known + other.num_known,
            num_rejected=self.num_rejected + other.num_rejected,
            num_units=self.num_units + other.num_units,
            num_adapters_read=self.num_adapters_read + other.num_adapters_read,
            wall_s=self.wall_s + other.wall_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswersFound:
    """What the catalog holds for a plan when its run has ended."""

    num_answers: int
    """Questions of the set that have an answer, from this run or an earlier one."""
    rejects: dict[str, int] = field(default_factory=dict)
    """The other questions, by reason."""
    time_to_first_token_s: float | None = None
    """Median over the answers."""
    num_prompt_tokens: int = 0
    """Tokens of all their prompts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSummary:
    """One attempt at a question set, from plan to end."""

    plan: AnswerPlanSummary
    shards: AnswerShardSummary
    found: AnswersFound
    engine: str
    """Which engine ran the steps."""
    num_internalized: int = 0
    """Videos handed to internalization because they had no adapter."""
