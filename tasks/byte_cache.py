"""Keep what was used last, up to so many bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Values by key; the least recently used make room."""

    def __init__(self, capacity_bytes: int) -> None:
        """Hold nothing yet."""
        self._capacity_bytes = capacity_bytes
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.size_bytes = 0

    def get(self, key: K) -> V | None:
        """Return a value, which is then the last used."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: K, value: V, size_bytes: int) -> None:
        """Keep a value, unless it is larger than all there is room for."""
        if key in self._items:
            self.size_bytes -= self._items.pop(key)[1]
        if size_bytes > self._capacity_bytes:
            return
        self._items[key] = (value, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._capacity_bytes:
            self.size_bytes -= self._items.popitem(last=False)[1][1]
