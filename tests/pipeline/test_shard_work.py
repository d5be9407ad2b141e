"""The flow inside a shard, with fakes: nothing lost or doubled, bounded, never stuck."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.shard_fakes import Film, World, threads_left, wait_until, within

PROMPT_S = 15.0  # a wait of this code ends in milliseconds; the rest is for a busy machine


@st.composite
def films(draw: st.DrawFn) -> list[Film]:
    """Videos of all kinds, some of them the same bytes as an earlier one."""
    made: list[Film] = []
    for number in range(draw(st.integers(0, 7))):
        if made and draw(st.integers(0, 5)) == 0:
            made.append(draw(st.sampled_from(made)))
            continue
        num_segments = draw(st.integers(1, 12))
        some = st.frozensets(st.integers(0, num_segments - 1))
        made.append(
            Film(
                content=number,
                num_segments=num_segments,
                is_bad=draw(st.integers(0, 5)) == 0,
                bad_segments=draw(some) if draw(st.booleans()) else frozenset(),
                breaks_at=draw(st.none() | st.integers(0, num_segments - 1)),
                done=draw(some) if draw(st.booleans()) else frozenset(),
            )
        )
    return made


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def fail_at(number: int) -> Callable[[int], None]:
    def hook(call: int) -> None:
        if call == number:
            raise RuntimeError("the stage failed")

    return hook


@given(
    films=films(),
    unit=st.integers(1, 6),
    ahead=st.integers(0, 8),
    batch=st.integers(1, 6),
    workers=st.integers(1, 4),
    failing=st.sampled_from(["none", "meeting", "decoding", "device", "storing", "committing"]),
    at=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_every_segment_is_committed_once_in_its_unit_also_after_a_failure(
    directory: Path,
    films: list[Film],
    unit: int,
    ahead: int,
    batch: int,
    workers: int,
    failing: str,
    at: int,
    seed: int,
) -> None:
    world = World(directory, films, unit=unit, ahead=ahead, batch=batch, workers=workers)
    jitter = random.Random(seed)
    world.decoding.hook = lambda _: time.sleep(jitter.choice([0, 0, 0.0005]))
    if failing != "none":
        getattr(world, failing).hook = fail_at(at)
        try:
            within(60, world.run)
        except RuntimeError as error:
            assert str(error) == "the stage failed"  # noqa: PT017  (it need not get that far)
        getattr(world, failing).hook = lambda _: None
    summary = within(60, world.run)
    expected = world.expected()
    assert world.lake.segments == expected
    assert world.lake.next_unit == summary.num_planned_units
    assert world.most_at_risk <= unit + ahead
    assert all(1 <= size <= batch for size in world.batches)
    assert threads_left() == []


def test_a_run_without_failure_decodes_and_computes_everything_once(directory: Path) -> None:
    films = [Film(content=n, num_segments=5, done=frozenset({1})) for n in range(4)]
    world = World(directory, films)
    first = world.run()
    assert (world.num_decoded, sum(world.batches), first.num_segments) == (16, 16, 16)
    assert (world.storing.num_calls, world.committing.num_calls) == (16, 5)
    again = world.run()
    assert (world.num_decoded, sum(world.batches), again.num_segments) == (0, 16, 0)
    assert again.num_planned_units == first.num_planned_units == 5


def test_batches_are_full_where_there_is_enough_to_do(directory: Path) -> None:
    films = [Film(content=n, num_segments=3) for n in range(8)]
    world = World(directory, films, unit=8, ahead=8, batch=5, workers=1)
    world.run()
    assert world.batches == [5, 5, 5, 5, 4]


def test_a_narrow_horizon_makes_small_batches_and_no_standstill(directory: Path) -> None:
    world = World(directory, [Film(content=0, num_segments=7)], unit=2, ahead=0, batch=5)
    within(60, world.run)
    assert world.batches == [2, 2, 2, 1]


STAGES = ["meeting", "decoding", "device", "storing", "committing"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_failing_stage_ends_the_shard_promptly_with_its_error(
    directory: Path, stage: str
) -> None:
    films = [Film(content=n, num_segments=6) for n in range(6)]
    world = World(directory, films, batch=2)
    getattr(world, stage).hook = fail_at(3)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="the stage failed"):
        within(60, world.run)
    assert time.monotonic() - started < PROMPT_S
    assert threads_left() == []
    within(60, world.run)
    assert world.lake.segments == world.expected()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_device_commits_what_is_complete(
    directory: Path, error: type[BaseException]
) -> None:
    def interrupt(call: int) -> None:
        if call == 4:
            raise error

    world = World(directory, [Film(content=0, num_segments=20)], unit=2, batch=2, workers=1)
    world.device.hook = interrupt
    with pytest.raises(error):
        within(60, world.run)
    assert world.lake.next_unit == 3
    assert threads_left() == []


def test_a_decoder_that_hangs_is_aborted_and_does_not_keep_the_shard(directory: Path) -> None:
    world = World(directory, [Film(content=0, num_segments=4)], batch=1, workers=1)

    def hang(call: int) -> None:
        if call == 2:
            wait_until(lambda: world.num_closed > 0)  # as a child does that is killed from outside

    world.decoding.hook = hang
    world.device.hook = fail_at(1)
    with pytest.raises(RuntimeError, match="the stage failed"):
        within(60, world.run)
    assert world.num_closed == 2  # by the shard, then by the reader's own thread
    assert threads_left() == []


def test_a_decoder_that_cannot_be_aborted_is_left_behind(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(directory, [Film(content=0, num_segments=4)], batch=1, workers=1)
    let_go = threading.Event()
    world.decoding.hook = lambda call: call < 2 or let_go.wait(60)
    world.device.hook = fail_at(1)
    with pytest.raises(RuntimeError, match="the stage failed"):
        within(60, lambda: world.run(grace_s=0.1))
    assert "reader: did not end within 0 s" in caplog.text
    let_go.set()
    wait_until(lambda: threads_left() == [])


def test_the_stages_work_at_the_same_time(directory: Path) -> None:
    films = [Film(content=n, num_segments=8) for n in range(4)]
    world = World(directory, films, unit=4, ahead=16, batch=4, workers=2)

    def while_others_work(call: int) -> None:
        if call == 3:
            # This batch ends only when, meanwhile, frames were decoded and a unit was committed.
            decoded = world.num_decoded
            committed = world.lake.next_unit
            if committed == 0:
                wait_until(lambda: world.lake.next_unit > 0)
            wait_until(lambda: world.num_decoded > decoded or world.num_decoded == 32)

    world.device.hook = while_others_work
    # The adapters of the second batch are stored only while the third is computed.
    world.storing.hook = lambda n: wait_until(lambda: n <= 4 or world.device.num_calls >= 3)
    within(60, world.run)
    assert world.lake.segments == world.expected()


def test_a_whole_batch_gathers_while_the_device_works_also_of_videos_with_one_segment(
    directory: Path,
) -> None:
    batch = 4
    films = [Film(content=n, num_segments=1) for n in range(3 * batch)]
    world = World(directory, films, unit=12, ahead=12, batch=batch, workers=1)
    world.device.hook = lambda call: wait_until(
        lambda: world.num_decoded >= min(call + 1, 3) * batch, seconds=10
    )
    within(60, world.run)
    assert world.batches == [batch] * 3


def test_overlapping_takes_less_time_than_one_stage_after_the_other(directory: Path) -> None:
    num_segments, pause_s = 40, 0.02
    world = World(
        directory,
        [Film(content=n, num_segments=10) for n in range(4)],
        unit=8,
        ahead=16,
        batch=4,
        workers=2,
    )
    world.decoding.hook = lambda _: time.sleep(pause_s)
    world.device.hook = lambda _: time.sleep(2 * pause_s)
    world.storing.hook = lambda _: time.sleep(pause_s)
    summary = within(60, world.run)
    one_by_one_s = num_segments * pause_s * (1 + 2 / 4 + 1)
    assert summary.wall_s <= 0.75 * one_by_one_s


def test_few_frames_are_in_memory_whatever_is_slow(directory: Path) -> None:
    batch, workers = 3, 3
    for slow in ["device", "storing", "committing"]:
        films = [Film(content=n, num_segments=20) for n in range(4)]
        world = World(directory, films, unit=8, ahead=64, batch=batch, workers=workers)
        getattr(world, slow).hook = lambda _: time.sleep(0.002)
        within(60, world.run)
        # A queue, a batch, and for each reader the segment it handed over and the one it makes.
        assert world.most_pixels <= batch + batch + 2 * workers < 80


def test_seconds_and_the_wall_time_of_units_are_measured(directory: Path) -> None:
    world = World(directory, [Film(content=0, num_segments=6)], unit=2)
    world.decoding.hook = lambda _: time.sleep(0.002)
    summary = world.run()
    assert {"read", "decode", "store", "commit", "wait"} <= summary.seconds.keys()
    assert summary.seconds["decode"] >= 6 * 0.002
    walls = [row["wall_s"] for row in world.lake.closing]
    assert len(walls) == 3
    assert 0 < sum(walls) <= summary.wall_s


def test_a_torn_film_is_no_failure_of_the_shard(directory: Path) -> None:
    torn = Film(content=0, num_segments=4, breaks_at=2)
    world = World(directory, [torn, Film(content=1, num_segments=2)])
    summary = world.run()
    assert (summary.num_segments, summary.num_rejects) == (4, 2)
    assert world.lake.rejects == ["DECODE_CRASH", "DECODE_CRASH"]
