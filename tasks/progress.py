"""How far a step is, told to whoever listens; a step runs the same when nobody does.

A step's inputs are ids and settings only (Prefect records them), so the listener is not an
argument: it is set around the flow in the same process and thread. Other threads of a step have no
listener: what they do is reported by the step's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Event = Literal[
    "videos_planned",
    "shard_videos",
    "videos",
    "segments",
    "rejects",
    "questions_planned",
    "questions",
]
Listener = Callable[[Event, int], None]

_listener: ContextVar[Listener | None] = ContextVar("video2lora_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the reports of every step run inside the `with` block to `listener` also."""
    outer = _listener.get()

    def both(event: Event, count: int) -> None:
        if outer is not None:
            outer(event, count)
        listener(event, count)

    token = _listener.set(both)
    try:
        yield
    finally:
        _listener.reset(token)


def report(event: Event, count: int = 1) -> None:
    """Say that `count` more of `event` happened."""
    listener = _listener.get()
    if listener is not None:
        listener(event, count)
