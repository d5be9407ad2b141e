"""Whatever the order in which a writer and a clean-up take their steps, no named file is lost."""

import itertools
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from storage.adapter_store import GARBAGE, AdapterStore
from storage.errors import ObjectMissingError
from storage.file_listing import FileListing, StoredFile
from storage.garbage import Collected, Place, collect_files, vacuum
from storage.identity import sha256_hex
from storage.keeper import Keeper
from storage.lake import Lake

GRACE_S = 3600.0
DATA = b"an adapter"
SHA256 = sha256_hex(DATA)
NAME = f"adapters/{SHA256[:2]}/{SHA256}.safetensors"


class World:
    """Files, rows and a clock in memory; every step may wait for a conductor's sign."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[bytes, float]] = {}
        self.rows: set[str] = set()
        self.now_s = 1e6
        self.step: Callable[[], None] = lambda: None

    def uri(self, name: str) -> str:
        return name

    def create(self, name: str, data: bytes) -> bool:
        self.step()
        is_new = name not in self.stored
        if is_new:
            self.stored[name] = (data, self.now_s)
        return is_new

    def refresh(self, name: str, data: bytes) -> None:
        self.step()
        self.stored[name] = (data, self.now_s)

    def read(self, name: str) -> bytes:
        self.step()
        if name not in self.stored:
            raise ObjectMissingError(name)
        return self.stored[name][0]

    def exists(self, name: str) -> bool:
        self.step()
        return name in self.stored

    def names(self, folder: str) -> Iterator[str]:
        return iter(sorted(name for name in self.stored if name.startswith(f"{folder}/")))

    def delete(self, name: str) -> None:
        self.step()
        self.stored.pop(name, None)

    def files(self, folder: str = "") -> Iterator[StoredFile]:
        self.step()
        names = [name for name in self.stored if not folder or name.startswith(f"{folder}/")]
        return iter([self._file(name) for name in sorted(names)])

    def file(self, name: str) -> StoredFile | None:
        self.step()
        return self._file(name) if name in self.stored else None

    def referenced(self) -> set[str]:
        self.step()
        return set(self.rows)

    def append(self) -> None:
        self.step()
        self.rows.add(SHA256)

    def _file(self, name: str) -> StoredFile:
        data, modified_s = self.stored[name]
        return StoredFile(name=name, size_bytes=len(data), modified_s=modified_s)

    def collect(self) -> Collected:
        return collect_files(
            Place(
                objects=self,
                listing=self,
                referenced=self.referenced,
                now_s=self.now_s,
                grace=timedelta(seconds=GRACE_S),
            )
        )


def write(world: World, *, dies_before_settling: bool) -> None:
    """What UnitCommitter does with one adapter."""
    store = AdapterStore(world)
    store.put(DATA)
    store.require([SHA256])
    world.append()
    if not dies_before_settling:
        store.settle([SHA256])


def interleave(world: World, order: tuple[str, ...], actors: dict[str, Callable[[], Any]]) -> None:
    """Run the actors so that their steps happen in `order`, and what is left of them after it."""
    permits = {name: threading.Semaphore(0) for name in actors}
    waits = {name: threading.Semaphore(0) for name in actors}
    me = threading.local()
    ended: set[str] = set()
    failed: list[BaseException] = []

    def step() -> None:
        waits[me.name].release()
        permits[me.name].acquire()

    def run(name: str) -> None:
        me.name = name
        try:
            actors[name]()
        except BaseException as error:
            failed.append(error)
        ended.add(name)
        waits[name].release()

    world.step = step
    threads = [threading.Thread(target=run, args=(name,)) for name in actors]
    for name, thread in zip(actors, threads, strict=True):
        thread.start()
        waits[name].acquire()
    left = [name for name in actors for _ in range(40)]
    for name in [*order, *left]:
        if name not in ended:
            permits[name].release()
            waits[name].acquire()
    for thread in threads:
        thread.join()
    world.step = lambda: None
    assert failed == []


def orders(num_writer: int, num_gc: int) -> Iterator[tuple[str, ...]]:
    """List every way to mix so many steps of a writer with so many of a clean-up."""
    total = num_writer + num_gc
    for places in itertools.combinations(range(total), num_writer):
        yield tuple("w" if i in places else "g" for i in range(total))


def count_steps(action: Callable[[World], Any], world: World) -> int:
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    world.step = step
    action(world)
    return steps


def old_world() -> World:
    """An adapter that nothing names and nobody has touched for long."""
    world = World()
    world.stored[NAME] = (DATA, world.now_s - 2 * GRACE_S)
    return world


def moved_world() -> World:
    """The same, after the first look and the grace."""
    world = old_world()
    assert world.collect() == Collected(num_moved=1)
    world.now_s += GRACE_S + 1
    return world


def check(world: World) -> None:
    assert world.rows == {SHA256}
    assert AdapterStore(world).get(SHA256) == DATA


@pytest.mark.parametrize("start", [old_world, moved_world], ids=["first look", "second look"])
@pytest.mark.parametrize("dies", [False, True])
def test_no_order_of_steps_loses_a_file_that_a_row_names(
    start: Callable[[], World], dies: bool
) -> None:
    def writer(world: World) -> None:
        write(world, dies_before_settling=dies)

    num_writer = count_steps(writer, start())
    num_gc = count_steps(World.collect, start())
    assert num_writer >= 2
    assert num_gc >= 4
    num_orders = 0
    for order in orders(num_writer, num_gc):
        world = start()
        actors = {"w": lambda w=world: writer(w), "g": world.collect}
        interleave(world, order, actors)
        world_now = world.now_s
        # Nobody may read it for a while: the next clean-ups must not lose it either.
        for _ in range(3):
            world.now_s += GRACE_S + 1
            world.collect()
        check(world)
        assert world.now_s > world_now
        num_orders += 1
    assert num_orders >= 15


@pytest.mark.parametrize("dies", [False, True])
def test_a_row_can_be_read_at_once_whatever_the_order(dies: bool) -> None:
    for order in orders(4, 6):
        world = old_world()
        actors = {
            "w": lambda w=world: write(w, dies_before_settling=dies),
            "g": world.collect,
        }
        interleave(world, order, actors)
        check(world)


def test_without_a_place_to_move_to_a_file_would_be_lost() -> None:
    """The test above can fail: delete at the first look, and some order loses the file."""
    lost = 0
    for order in orders(3, 6):
        world = old_world()
        actors = {
            "w": lambda w=world: write(w, dies_before_settling=True),
            "g": world.collect,
        }
        interleave(world, order, actors)
        lost += NAME not in world.stored
    assert lost > 0


def test_a_file_goes_at_the_second_look_and_not_before(tmp_path: Path) -> None:
    world = old_world()
    assert world.collect() == Collected(num_moved=1)
    assert world.collect() == Collected()
    world.now_s += GRACE_S + 1
    assert world.collect() == Collected(num_deleted=1, size_bytes=len(DATA))
    assert world.stored == {}


def test_a_row_that_came_meanwhile_gets_its_file_back() -> None:
    world = moved_world()
    world.rows.add(SHA256)
    assert world.collect() == Collected(num_restored=1)
    assert list(world.stored) == [NAME]


def test_a_young_file_a_named_file_and_a_dry_run_change_nothing() -> None:
    world = World()
    world.stored[NAME] = (DATA, world.now_s)
    assert world.collect() == Collected()
    named = old_world()
    named.rows.add(SHA256)
    assert named.collect() == Collected()
    assert NAME in named.stored


def test_a_writer_that_waited_too_long_looks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    clock = [0.0]
    monkeypatch.setattr("storage.adapter_store.time.monotonic", lambda: clock[0])
    store = AdapterStore(world)
    store.put(DATA)
    world.stored.clear()
    store.require([SHA256])
    clock[0] = 601.0
    with pytest.raises(ObjectMissingError, match="it has no file"):
        store.require([SHA256])
    world.stored[f"{GARBAGE}/{NAME}"] = (DATA, 0.0)
    store.require([SHA256])
    assert NAME in world.stored


def test_a_real_lake_is_cleaned_up(lake: Lake, rows: Any, commit: Callable[..., str]) -> None:
    kept = [rows.adapter(lake, "v", i) for i in range(2)]
    commit(lake, kept)
    orphan = lake.adapters.put(b"nobody names this")
    (Path(lake.uri) / "adapters" / ".tmp-dead").write_bytes(b"half")
    clock = [FileListing(lake.uri).file(kept_name(orphan)).modified_s]
    keeper = Keeper(lake, clock=lambda: clock[0])
    assert keeper.collect_garbage() == Collected()
    clock[0] += GRACE_S + 100
    planned = keeper.collect_garbage(is_dry_run=True)
    assert (planned.num_moved, planned.num_temporary) == (1, 1)
    assert lake.adapters.get(orphan) == b"nobody names this"
    done = keeper.collect_garbage()
    assert (done.num_moved, done.num_temporary, done.size_bytes) == (1, 1, 4)
    assert lake.adapters.get(orphan) == b"nobody names this"  # reading puts it back
    clock[0] += 2 * GRACE_S
    keeper.collect_garbage()
    clock[0] += 3 * 24 * GRACE_S
    keeper.collect_garbage()
    clock[0] += 3 * 24 * GRACE_S
    keeper.collect_garbage()
    with pytest.raises(ObjectMissingError, match=orphan):
        lake.adapters.get(orphan)
    assert all(lake.adapters.get(row["adapter_sha256"]) for row in kept)


def kept_name(sha256: str) -> str:
    return f"adapters/{sha256[:2]}/{sha256}.safetensors"


def test_table_files_that_no_version_needs_are_deleted(
    lake: Lake, rows: Any, commit: Callable[..., str]
) -> None:
    commit(lake, [rows.adapter(lake, "v", 0)])
    commit(lake, [rows.adapter(lake, "v", 1)], unit=1)
    Keeper(lake).compact()
    files = Path(lake.uri) / "catalog" / "adapters"
    assert len(list(files.glob("*.parquet"))) == 3
    assert vacuum(lake.catalog, keep=timedelta(days=7), is_dry_run=False) == 0
    num_planned = vacuum(lake.catalog, keep=timedelta(0), is_dry_run=True)
    assert vacuum(lake.catalog, keep=timedelta(0), is_dry_run=False) == num_planned > 0
    assert len(list(files.glob("*.parquet"))) == 1
    assert lake.table("adapters").num_rows == 2
