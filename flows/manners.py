"""How this call of the command line behaves: how much it says, and in which form."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class LogFormat(StrEnum):
    """How log lines, progress and errors are written to stderr."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """What the global options say."""

    is_quiet: bool = False
    """No progress, no warnings: results and errors only."""
    is_verbose: bool = False
    """What each step logs, too."""
    log_format: LogFormat = LogFormat.TEXT
    """For people or for machines."""


_DEFAULT = Manners()
_manners: ContextVar[Manners] = ContextVar("video2lora_manners", default=_DEFAULT)


def current() -> Manners:
    """Return the manners of this call."""
    return _manners.get()


def behave(manners: Manners) -> None:
    """Take on manners, until others are taken on."""
    _manners.set(manners)


@contextmanager
def behaving(manners: Manners) -> Iterator[None]:
    """Take on manners inside the `with` block."""
    token = _manners.set(manners)
    try:
        yield
    finally:
        _manners.reset(token)
