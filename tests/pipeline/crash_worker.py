"""A worker that may be killed at any moment: does shards of a run, and shows what it is doing.

    python -m tests.pipeline.crash_worker JOURNAL PHASES CONFIG_JSON RUN_ID SHARD...

PHASES is a file of one byte per phase, the number of threads that are in it now. JOURNAL gets one
line per batch given to the device, before the device begins.
"""

import mmap
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.schema import InternalizeConfig
from flows.internalize_shard import internalize_shard
from flows.local_engine import LocalEngine
from storage.adapter_store import AdapterStore
from storage.commit import UnitCommitter
from tasks import internalize_units
from tasks.decoding_child import DecodingChild

PHASES = ("decode", "device", "store", "commit")


class Phases:
    """Counts, in a shared file, the threads in each phase."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), len(PHASES))
        self._lock = threading.Lock()

    @contextmanager
    def inside(self, phase: str) -> Iterator[None]:
        self._add(phase, 1)
        try:
            yield
        finally:
            self._add(phase, -1)

    def _add(self, phase: str, count: int) -> None:
        with self._lock:
            self._bytes[PHASES.index(phase)] += count

    def wrap(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            with self.inside(phase):
                return function(*args, **kwargs)

        return inside

    def wrap_iterator(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Iterator[Any]:
            found = function(*args, **kwargs)
            while True:
                with self.inside(phase):
                    item = next(found, None)
                if item is None:
                    return
                yield item

        return inside


def journalled(path: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """Write the number of segments of every batch before it is done."""
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write_first(model: Any, recipe: Any, batch: Any, **options: Any) -> Any:
        os.write(journal, f"{len(batch)}\n".encode())
        return function(model, recipe, batch, **options)

    return write_first


def main(journal: Path, phases: Phases, config: InternalizeConfig, run_id: str, shards: list[int]):
    make = internalize_units.internalize_batch
    internalize_units.internalize_batch = journalled(journal, phases.wrap("device", make))
    DecodingChild.decode = phases.wrap_iterator("decode", DecodingChild.decode)
    AdapterStore.put = phases.wrap("store", AdapterStore.put)
    UnitCommitter.commit = phases.wrap("commit", UnitCommitter.commit)
    for shard in shards:
        internalize_shard(
            config, LocalEngine(), run_id=run_id, shard=shard, attempt_id=uuid.uuid4().hex
        )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Phases(Path(sys.argv[2])),
        InternalizeConfig.model_validate_json(sys.argv[3]),
        sys.argv[4],
        [int(shard) for shard in sys.argv[5:]],
    )
