"""Taking turns: one process at a time does a thing, on disk and on S3.

delta-rs 1.6 lets two compactions of one table both commit, and every row is there twice. So
compaction takes a turn: ROOT/turns/<what>-<n>.json is created, which only one process can do, and
ROOT/turns/<what>-<n>.done ends it. Turn n+1 is free when turn n is done or has run out of time.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from storage.errors import LakeError, ObjectMissingError
from storage.object_store import ObjectStore

LASTS_S: Final = 6 * 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The right to do a thing until a time."""

    name: str
    ends_at: float
    """Seconds since 1970."""
    clock: Callable[[], float]

    def require(self) -> None:
        """Raise LakeError where less than half of the turn's time is left."""
        if self.clock() > self.ends_at - LASTS_S / 2:
            raise LakeError(f"{self.name}: it takes too long and stopped itself; run it again")


@contextmanager
def taken_turn(
    objects: ObjectStore, what: str, *, clock: Callable[[], float] = time.time
) -> Iterator[Turn]:
    """Hold the turn to do `what` inside the `with` block.

    Raises:
        LakeError: another process holds it.
    """
    number = _last_number(objects, what)
    if number >= 0 and not _is_free(objects, what, number, clock()):
        raise LakeError(_held(objects, what, number))
    ends_at = clock() + LASTS_S
    name = f"{_stem(what, number + 1)}.json"
    content = json.dumps({"ends_at": ends_at, "owner": uuid.uuid4().hex})
    if not objects.create(name, content.encode()):
        raise LakeError(_held(objects, what, number + 1))
    try:
        yield Turn(name=what, ends_at=ends_at, clock=clock)
    finally:
        objects.create(f"{_stem(what, number + 1)}.done", b"")
        # The last turn's files stay: their number is what the next one counts from.
        for ending in ("json", "done"):
            if number >= 0:
                objects.delete(f"{_stem(what, number)}.{ending}")


def _stem(what: str, number: int) -> str:
    return f"turns/{what}-{number:08d}"


def _last_number(objects: ObjectStore, what: str) -> int:
    names = (name for name in objects.names("turns") if name.endswith(".json"))
    stems = (name.removeprefix("turns/").removesuffix(".json") for name in names)
    return max((int(s.rpartition("-")[2]) for s in stems if s.startswith(f"{what}-")), default=-1)


def _is_free(objects: ObjectStore, what: str, number: int, now: float) -> bool:
    if objects.exists(f"{_stem(what, number)}.done"):
        return True
    try:
        said = json.loads(objects.read(f"{_stem(what, number)}.json"))
    except ObjectMissingError:
        return False
    return bool(now > said["ends_at"])


def _held(objects: ObjectStore, what: str, number: int) -> str:
    uri = objects.uri(f"{_stem(what, number)}.json")
    return (
        f"{uri}: another process is doing {what}; wait for it, or delete that file where it is "
        f"certain that none does (it ends by itself {LASTS_S / 3600:.0f} hours after it began)"
    )
