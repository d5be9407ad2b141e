"""What a check of a lake finds: faults with a fix each, and counts of what was looked at."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "table",
    "table_file",
    "doubled_row",
    "adapter_missing",
    "adapter_changed",
    "adapter_shape",
    "adapter_not_finite",
    "coverage_gap",
    "coverage_overlap",
    "parent_missing",
    "checkpoint",
    "plan",
    "visual_tokens_changed",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a lake."""

    kind: Kind
    where: str
    """The file, or the row by table and id."""
    what: str
    fix: str
    """What to do about it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The outcome of a check."""

    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """What was looked at, and what is no fault: files that no row names, videos in work."""

    def add(self, kind: Kind, where: str, what: str, fix: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind=kind, where=where, what=what, fix=fix))
