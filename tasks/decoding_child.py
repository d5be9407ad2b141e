"""Decoding in a process that can be killed: whatever a video does, the run goes on.

FFmpeg reads what strangers wrote. A file may make it hang, crash, or take all memory, so the shard
never decodes itself: a child does, within limits of wall-clock time, processor time and address
space, and hands over each segment as soon as it is filled. A child that exceeds a limit, dies or
stops answering is killed and reaped. What was left of its video is tried once more in a fresh
child; if that fails too, the reason is the video's. Segments handed over before stay good: a retry
decodes the same plan from its start and leaves out what was given, so its results are the same.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from configs.schema import DecodeConfig, ModelConfig
from tasks.decoding_child_pipe import Request, Setup
from tasks.decoding_child_process import ChildProcess, ChildStartError
from tasks.video_reader import FileFacts, InProcessReader, VideoReader
from video2lora_core.errors import Reason, UsageError, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject
from video2lora_core.segments import Segment

__all__ = ["ChildStartError", "DecodingChild", "FileFacts", "InProcessReader", "VideoReader"]

logger = logging.getLogger(__name__)

# The child is not to be trusted after these; of a video's other faults it speaks for itself.
FAULTS = frozenset({Reason.DECODE_TIMEOUT, Reason.DECODE_CRASH, Reason.DECODE_OOM})


class DecodingChild:
    """A VideoReader that works in one child process at a time, for one thread.

    The child is started when first needed. On Linux it dies with the thread that started it.
    """

    program: ClassVar[str] = "tasks.decoding_child_main"
    """The module whose `main` the child runs."""

    def __init__(
        self,
        *,
        model: ModelConfig,
        decoder: str,
        limits: DecodeConfig,
        sampling: str = "centres",
    ) -> None:
        self._setup = Setup(model=model, decoder=decoder, limits=limits, sampling=sampling)
        self._limits = limits
        self._process: ChildProcess | None = None
        self._path: Path | None = None
        self._num_videos = 0
        self._is_busy = False
        self._is_closed = False
        self._lock = threading.Lock()
        self.num_started = 0

    @property
    def pid(self) -> int | None:
        """The running child's process id."""
        return self._process.pid if self._process else None

    def meet(self, path: Path, *, is_hashed: bool) -> FileFacts:
        """Hash a file, unless that was done already, and probe it.

        Raises:
            VideoError: it cannot be used; carries `video_id` where the bytes could be read.
            ChildStartError: there is no child to ask.
        """
        request = _request(path, segments=None, num_known=int(is_hashed))
        video_id: str | None = None
        answers = self._answers(request)
        try:
            if not is_hashed:
                video_id = next(answers)
            return FileFacts(video_id=video_id, probe=next(answers))
        except VideoError as error:
            error.video_id = video_id
            raise

    def decode(
        self, path: Path, segments: Sequence[Segment]
    ) -> Iterator[SegmentFrames | SegmentReject]:
        """Yield every segment once, in order; the child works on one while the last is used.

        Raises:
            VideoError: the rest of the video cannot be decoded. What was yielded before stays good.
            ChildStartError: there is no child to ask.
        """
        if segments:
            yield from self._answers(_request(path, segments=tuple(segments)))

    def close(self) -> None:
        """End the child, for ever; from any thread, and again does nothing."""
        with self._lock:
            self._is_closed = True
            self._kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answers(self, request: Request) -> Iterator[Any]:
        """Yield the answers that are left, if need be from a second child."""
        try:
            for answer in self._ask(request):
                request = replace(request, num_known=request.num_known + 1)
                yield answer
            return
        except VideoError as error:
            if error.reason not in FAULTS:
                raise
            logger.warning("%s: %s; once more in a fresh child", request.path.name, error)
        yield from self._ask(request)

    def _ask(self, request: Request) -> Iterator[Any]:
        process = self._process_for(request.path)
        is_whole, self._is_busy = False, True
        try:
            process.send(request, timeout_s=self._limits.timeout_s)
            since = -1
            for number in range(request.num_known, request.num_answers):
                timeout_s = self._limits.timeout_s * request.cost(number, since=since)
                answer = process.receive(timeout_s=timeout_s)
                since, is_whole = number, number + 1 == request.num_answers
                self._is_busy = not is_whole
                yield answer
        except (VideoError, UsageError) as error:
            is_whole = not (isinstance(error, VideoError) and error.reason in FAULTS)
            self._is_busy = not is_whole
            raise self._named(error, request.path) from error
        finally:
            if not is_whole and process is self._process:
                self._stop()

    def _named(self, error: VideoError | UsageError, path: Path) -> VideoError | UsageError:
        if self._is_closed:
            return _closed()
        if isinstance(error, UsageError) or path.name in error.detail:
            return error
        return VideoError(error.reason, f"{path.name}: {error.detail}")

    def _process_for(self, path: Path) -> ChildProcess:
        """Return the running child, or a fresh one where there is none or it has served enough."""
        is_next = path != self._path
        is_spent = is_next and self._num_videos >= self._limits.videos_per_child
        if self._is_busy or is_spent:  # busy with a pass that was left halfway
            self._stop()
        if self._process is None:
            self._start()
        assert self._process is not None
        self._num_videos += is_next or self._num_videos == 0
        self._path = path
        return self._process

    def _start(self) -> None:
        if self._is_closed:
            raise _closed()
        process = ChildProcess(self.program, self._setup)
        with self._lock:
            self._process, self._num_videos, self._is_busy = process, 0, False
            self.num_started += 1
            if self._is_closed:
                self._kill()
                raise _closed()

    def _stop(self) -> None:
        with self._lock:
            self._kill()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()


def _closed() -> UsageError:
    return UsageError("decoding child: it is closed; make another one")


def _request(path: Path, *, segments: tuple[Segment, ...] | None, num_known: int = 0) -> Request:
    size_bytes = 0
    with suppress(OSError):
        size_bytes = path.stat().st_size
    return Request(
        path=path.absolute(), size_bytes=size_bytes, segments=segments, num_known=num_known
    )
