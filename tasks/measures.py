"""What a process counts about its work, for whoever watches it: a metrics server, or nobody.

Unlike progress (which is told in the flow's own thread) measures come from every thread, so there
is one sink for the process. A step runs the same when there is none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

Counter = Literal["videos", "segments", "rejects", "units", "adapter_bytes", "seconds"]
Level = Literal["queue"]


class Sink(Protocol):
    """Where measures go; called from any thread, must be quick and never raise."""

    def add(self, counter: Counter, amount: float, label: str) -> None:
        """Take that a counter grew; the label is a reject's reason or a stage."""
        ...

    def set(self, level: Level, value: float, label: str) -> None:
        """Take how high a level is now; the label names the queue."""
        ...


_sinks: list[Sink] = []


@contextmanager
def measuring(sink: Sink) -> Iterator[None]:
    """Send the measures of this process to `sink` also, inside the `with` block."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


def count(counter: Counter, amount: float = 1, *, label: str = "") -> None:
    """Say that a counter grew."""
    for sink in tuple(_sinks):
        sink.add(counter, amount, label)


def level(name: Level, value: float, *, label: str = "") -> None:
    """Say how high a level is now."""
    for sink in tuple(_sinks):
        sink.set(name, value, label)
