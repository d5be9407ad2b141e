"""Where a step's time goes, by kind of work; threads add to the same kinds."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tasks.measures import count


class Stopwatch:
    """Adds up busy seconds under names; one instance per step.

    What several threads do at once counts once for each, so kinds may add up to more than the wall
    time that `wall_s` tells.
    """

    def __init__(self) -> None:
        """Start with nothing measured."""
        self._started = time.perf_counter()
        self._lock = threading.Lock()
        self._seconds: Counter[str] = Counter()

    @contextmanager
    def measure(self, kind: str) -> Iterator[Callable[[], float]]:
        """Add the duration of the `with` block to `kind`; what is yielded tells it afterwards."""
        started = time.perf_counter()
        spent_s = 0.0
        try:
            yield lambda: spent_s
        finally:
            spent_s = time.perf_counter() - started
            self.add(kind, spent_s)

    def add(self, kind: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        with self._lock:
            self._seconds[kind] += seconds  # type: ignore[assignment]  # a Counter adds floats too
        count("seconds", seconds, label=kind)

    @property
    def seconds(self) -> dict[str, float]:
        """What was measured so far."""
        with self._lock:
            return dict(self._seconds)

    @property
    def wall_s(self) -> float:
        """Wall time since the start."""
        return time.perf_counter() - self._started
