"""Which shard this process works on, for its log lines, whatever thread writes them.

One process does one shard at a time, so one value is enough.
"""

from collections.abc import Iterator
from contextlib import contextmanager

_current: dict[str, str | int] = {}


@contextmanager
def working_on(*, run_id: str, shard: int) -> Iterator[None]:
    """Say that what happens inside the `with` block is about a shard."""
    before = dict(_current)
    _current.update(run_id=run_id, shard=shard)
    try:
        yield
    finally:
        _current.clear()
        _current.update(before)


def current() -> dict[str, str | int]:
    """Return run_id and shard, or nothing."""
    return dict(_current)
