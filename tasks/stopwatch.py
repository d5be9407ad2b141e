"""Where a step's wall time goes, by kind of work."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds under names; one instance per step."""

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._seconds: Counter[str] = Counter()

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Add the duration of the `with` block to `kind`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(kind, time.perf_counter() - started)

    def add(self, kind: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self._seconds[kind] += seconds  # type: ignore[assignment]  # a Counter adds floats too

    @property
    def seconds(self) -> dict[str, float]:
        """What was measured so far."""
        return dict(self._seconds)
