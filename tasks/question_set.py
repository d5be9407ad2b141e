"""A question set: what is asked of which videos, whatever file format it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Mode = Literal["adapter", "in-context", "in-context-kv-cache", "blind"]
MODES: tuple[Mode, ...] = ("adapter", "in-context", "in-context-kv-cache", "blind")


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
