"""What a check says, and what checks are told."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What was looked at."""
    state: State
    """A fault stops work; a warning may."""
    found: str
    """What is there."""
    meaning: str = ""
    """Why it matters, where it is not ok."""
    fix: str = ""
    """The command or the setting that helps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What is to be checked."""

    lake: str | None = None
    model: str = "tiny"
    decoder: str = "pyav"
    prefect_api: str | None = None
    """The API's URL, where one is configured."""
    scratch: Path | None = None
    """Where copies of remote videos go; the system's temporary folder if not given."""
    min_free_bytes: int = 2 * 1024**3
    """A disk with less free is a fault."""


Check = Callable[[Patient], Iterator[Finding]]


def ok(check: str, found: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(check=check, state="ok", found=found)


def warning(check: str, found: str, *, meaning: str, fix: str) -> Finding:
    """Say that something may go wrong."""
    return Finding(check=check, state="warning", found=found, meaning=meaning, fix=fix)


def fault(check: str, found: str, *, meaning: str, fix: str) -> Finding:
    """Say that something is wrong."""
    return Finding(check=check, state="fault", found=found, meaning=meaning, fix=fix)
