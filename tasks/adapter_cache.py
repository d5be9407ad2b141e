"""Adapters ready to be injected, read and composed as rarely as memory allows."""

import time
from collections.abc import Sequence

from storage.lake import Lake
from tasks.answer_questions import ready
from tasks.byte_cache import ByteCache
from tasks.models import LoadedModel
from video2lora_core.adapter import Adapter, adapter_from_bytes
from video2lora_core.compose import concat


class AdapterCache:
    """Reads adapter files, checked against their sha256, and composes them."""

    def __init__(self, lake: Lake, model: LoadedModel, *, capacity_bytes: int) -> None:
        """Keep at most `capacity_bytes`, half of it for segments, half for compositions."""
        self._lake = lake
        self._model = model
        self._segments: ByteCache[str, Adapter] = ByteCache(capacity_bytes // 2)
        self._composed: ByteCache[tuple[str, ...], Adapter] = ByteCache(capacity_bytes // 2)
        self.num_read = 0
        self.load_s = 0.0
        self.compose_s = 0.0

    def segments(self, ids: Sequence[str]) -> list[Adapter]:
        """Return segment adapters, without the bias.

        Raises:
            ObjectError: a file is gone, or its bytes are not those that were written.
        """
        return [self._segment(sha256) for sha256 in ids]

    def composed(self, ids: tuple[str, ...]) -> Adapter:
        """Return the sum of segment adapters with the bias: the same object as long as it is kept.

        Raises:
            ObjectError: a file is gone, or its bytes are not those that were written.
        """
        adapter = self._composed.get(ids)
        if adapter is None:
            segments = self.segments(ids)
            started = time.perf_counter()
            adapter = ready(self._model, concat(segments))
            self.compose_s += time.perf_counter() - started
            self._composed.put(ids, adapter, adapter_size_bytes(adapter))
        return adapter

    def _segment(self, sha256: str) -> Adapter:
        adapter = self._segments.get(sha256)
        if adapter is None:
            started = time.perf_counter()
            data = self._lake.adapters.get(sha256)
            adapter = adapter_from_bytes(data).to(device=self._model.vlm.device)
            self.load_s += time.perf_counter() - started
            self.num_read += 1
            self._segments.put(sha256, adapter, adapter_size_bytes(adapter))
        return adapter


def adapter_size_bytes(adapter: Adapter) -> int:
    """Count the bytes of an adapter's factors."""
    return sum(f.a.nbytes + f.b.nbytes for f in adapter.factors.values())
