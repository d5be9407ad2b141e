"""A shard without decoder, model and tables: fakes that count and, where told, fail or wait."""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.schema import SegmentConfig
from storage.commit import Outcome
from storage.lookups import Span
from storage.manifest import Source
from tasks.internalize_batch import MadeAdapter
from tasks.kept_tokens import KeptTokens
from tasks.meet_video import Reject
from tasks.shard_plan import ShardPlan
from tasks.shard_work import do_shard
from tasks.stopwatch import Stopwatch
from tasks.summary import ShardSummary
from tasks.video_reader import FileFacts
from tasks.work_stream import Watched
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject, VideoProbe
from video2lora_core.segments import Segment
from video2lora_core.visual_tokens import SeenSegment, seen_segment

SEGMENT_US = 1_000_000
RULE = SegmentConfig(segment_s=1.0, min_tail_s=0.0, num_frames=1)


@dataclass(frozen=True, kw_only=True)
class Film:
    """What a fake video is."""

    content: int
    """Films of one content are the same bytes."""
    num_segments: int
    is_bad: bool = False
    """Rejected whole."""
    bad_segments: frozenset[int] = frozenset()
    breaks_at: int | None = None
    """Decoding ends with a VideoError here."""
    done: frozenset[int] = frozenset()
    """Segments that another run did."""

    @property
    def video_id(self) -> str:
        return sha256(str(self.content).encode()).hexdigest()

    def segment(self, index: int) -> Segment:
        return Segment(start_us=index * SEGMENT_US, end_us=(index + 1) * SEGMENT_US)


@dataclass
class Stage:
    """Calls of one stage; `hook` runs in each and may wait or raise."""

    hook: Callable[[int], None] = lambda _: None
    num_calls: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def call(self) -> None:
        with self.lock:
            self.num_calls += 1
            number = self.num_calls
        self.hook(number)


class World:
    """Films on a disk, a reader, a device and a lake; attempts at one shard."""

    def __init__(
        self,
        directory: Path,
        films: Sequence[Film],
        *,
        unit: int = 4,
        ahead: int = 4,
        batch: int = 3,
        workers: int = 2,
    ) -> None:
        self.films = films
        self.unit, self.ahead, self.batch, self.workers = unit, ahead, batch, workers
        self.sources = []
        for number in range(len(films)):
            path = directory / f"{number}.mp4"
            path.touch()
            token = str(path.stat().st_mtime_ns)
            self.sources.append(Source(uri=str(path), size_bytes=0, version_token=token))
        self.meeting, self.decoding, self.device = Stage(), Stage(), Stage()
        self.storing, self.committing = Stage(), Stage()
        self.lake = FakeLake(self)
        self.num_closed = 0
        self.num_decoded = 0
        self.most_at_risk = 0
        self.pixels: list[weakref.ref[np.ndarray]] = []
        self.most_pixels = 0
        self.batches: list[int] = []
        self.lock = threading.Lock()
        self.tokens: KeptTokens | None = None

    def expected(self) -> dict[tuple[str, int], tuple[int, str]]:
        """Map each segment to do, (video_id, start_us), to its unit and its outcome."""
        found: dict[tuple[str, int], tuple[int, str]] = {}
        seen: set[str] = set()
        number = 0
        for film in self.films:
            if film.is_bad:
                number += 1
            elif film.video_id not in seen:
                seen.add(film.video_id)
                for index in range(film.num_segments):
                    is_broken = film.breaks_at is not None and index >= film.breaks_at
                    is_reject = index in film.bad_segments or is_broken
                    if index not in film.done:
                        place = (
                            (number + index) // self.unit,
                            "reject" if is_reject else "adapter",
                        )
                        found[film.video_id, index * SEGMENT_US] = place
                number += film.num_segments
        return found

    def run(self, *, grace_s: float = 20.0) -> ShardSummary:
        """Make an attempt at the shard."""
        plan = ShardPlan(
            run_id="run",
            shard=0,
            recipe_id="recipe",
            sources=self.sources,
            first_unit=self.lake.next_unit,
            unit_segments=self.unit,
            ahead_segments=self.ahead,
            batch_segments=self.batch,
            rule=RULE,
            corpus_name="films",
            common={},
        )
        self.num_decoded = 0
        self.lake.num_committed = 0
        return do_shard(
            plan,
            known=FakeKnown(self.films),  # type: ignore[arg-type]
            readers=[FakeReader(self) for _ in range(self.workers)],
            make_adapters=self._make_adapters,
            lake=self.lake,
            watch=Stopwatch(),
            scratch_bytes=1,
            tokens=self.tokens,
            grace_s=grace_s,
        )

    def film_at(self, path: Path) -> Film:
        return self.films[int(path.stem)]

    def frames(self, segment: Segment) -> SegmentFrames:
        """Make a segment's frames and count how many arrays are alive."""
        pixels = np.zeros((1, 3, 2, 2), np.uint8)
        with self.lock:
            self.pixels = [ref for ref in self.pixels if ref() is not None]
            self.pixels.append(weakref.ref(pixels))
            self.most_pixels = max(self.most_pixels, len(self.pixels))
        return SegmentFrames(
            segment=segment,
            pixels=pixels,
            times_us=(segment.start_us,),
            num_unique_frames=1,
            num_corrupt_frames=0,
        )

    def _make_adapters(self, batch: Sequence[Watched]) -> list[MadeAdapter | Reject]:
        self.device.call()
        self.batches.append(len(batch))
        return [
            MadeAdapter(data=str(id(given)).encode(), columns={"device_s": 0.0}, seen=_seen(given))
            for given in batch
        ]


def _seen(given: Watched) -> SeenSegment | None:
    is_new = isinstance(given, SegmentFrames)
    return seen_segment(given, torch.zeros(1, 1, 1)) if is_new else None


class FakeKnown:
    """Knows only what another run did."""

    def __init__(self, films: Sequence[Film]) -> None:
        self.videos: dict[str, Any] = {}
        self.rejected: dict[str, Any] = {}
        self.elsewhere: dict[str, Any] = {}
        self.deleted: set[str] = set()
        self._done: dict[str, set[Span]] = {}
        for film in films:
            spans = {(film.segment(i).start_us, film.segment(i).end_us) for i in film.done}
            self._done.setdefault(film.video_id, set()).update(spans)

    def done_spans(self, video_id: str) -> set[Span]:
        return self._done[video_id]


class FakeReader:
    """Reads films."""

    def __init__(self, world: World) -> None:
        self.world = world

    def meet(self, path: Path, *, is_hashed: bool) -> FileFacts:
        assert not is_hashed
        self.world.meeting.call()
        film = self.world.film_at(path)
        if film.is_bad:
            raise VideoError(Reason.NOT_MEDIA, "no film")
        probe = VideoProbe(
            duration_us=film.num_segments * SEGMENT_US,
            origin_us=0,
            width_px=2,
            height_px=2,
            rotation_deg=0,
            fps=1.0,
            codec="none",
            container="none",
            pixel_format="none",
        )
        return FileFacts(video_id=film.video_id, probe=probe)

    def decode(
        self, path: Path, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | SegmentReject]:
        film, world = self.world.film_at(path), self.world
        for segment in segments:
            index = segment.start_us // SEGMENT_US
            if film.breaks_at is not None and index >= film.breaks_at:
                raise VideoError(Reason.DECODE_CRASH, "torn film")
            world.decoding.call()
            with world.lock:
                world.num_decoded += 1
                at_risk = world.num_decoded - world.lake.num_committed
                world.most_at_risk = max(world.most_at_risk, at_risk)
            if index in film.bad_segments:
                yield SegmentReject(segment=segment, reason=Reason.TRUNCATED, detail="scratched")
            else:
                yield world.frames(segment)

    def close(self) -> None:
        with self.world.lock:
            self.world.num_closed += 1


class FakeLake:
    """Keeps what is committed; refuses a unit that is not the next."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.adapters = self
        self.stored: set[str] = set()
        self.segments: dict[tuple[str, int], tuple[int, str]] = {}
        self.rejects: list[str] = []
        self.closing: list[dict[str, Any]] = []
        self.next_unit = 0
        self.num_committed = 0

    def put(self, data: bytes) -> str:
        self.world.storing.call()
        name = sha256(data).hexdigest()
        self.stored.add(name)
        return name

    def commit_unit(self, *, unit: int, rows: Any, **_: Any) -> Outcome:
        assert unit == self.next_unit, f"unit {unit} came before {self.next_unit}"
        self.world.committing.call()
        adapters = rows["adapters"]
        assert {row["adapter_sha256"] for row in adapters} <= self.stored
        segments = rows["segments"](adapters)
        for row in segments:
            key = row["video_id"], row["start_us"]
            assert key not in self.segments, f"{key} was committed twice"
            self.segments[key] = unit, row["outcome"]
        self.rejects += [row["reason"] for row in rows["rejects"](adapters)]
        self.closing += rows["runs"]
        self.next_unit += 1
        with self.world.lock:
            self.num_committed += len(segments)
        return "committed"


def within(seconds: float, action: Callable[[], Any]) -> Any:
    """Return what `action` does, in a thread of its own, or fail when it takes longer."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(action())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still running after {seconds} s"
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def threads_left() -> list[str]:
    """List the threads of shards that are alive."""
    return [each.name for each in threading.enumerate() if each.name.startswith("video2lora-")]


def wait_until(predicate: Callable[[], bool], *, seconds: float = 30.0) -> None:
    """Wait in a stage until something that other stages do has happened."""
    deadline = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < deadline, "the other stages stand still"
        time.sleep(0.001)
