"""A question set: what is asked of which videos, whatever file format it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.answer_schema import MODES, Mode
from video2lora_core.errors import Reason

__all__ = ["MODES", "BadQuestion", "Mode", "SetQuestion"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SetQuestion:
    """One question of a set; a span of None is the whole video."""

    question_id: str
    """Unique in its set."""
    video: str
    """A video id or its first digits, a path or URI, a file name, or the manifest's own id."""
    question: str
    """The text that the model is asked, choices included."""
    references: tuple[str, ...] = ()
    """Every answer that counts as right; none where it is not known."""
    question_type: str | None = None
    """Type by which results are shown apart."""
    start_us: int | None = None
    """Start of the span asked about."""
    end_us: int | None = None
    """End of the span asked about, exclusive."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The set's other columns, as JSON types."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadQuestion:
    """A row of a set that is no question; it becomes a reject."""

    question_id: str
    """The row's own id, or the sha256 of its content."""
    detail: str
    """What is wrong with it, and where it stands."""
    reason: Reason = Reason.QUESTION_INVALID
    """Its reason code."""
