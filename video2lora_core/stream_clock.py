"""Times of one stream in microseconds after its first frame."""

from av.video.stream import VideoStream

from video2lora_core.full_decoding import ceil_us, usual_duration
from video2lora_core.packets import Failure
from video2lora_core.segment_frames import Damage


class StreamClock:
    """Turns the stream's times to instants; what has no time follows what was before it."""

    def __init__(self, stream: VideoStream, *, origin: int) -> None:
        """Count from `origin`, a presentation time in the stream's time base."""
        assert stream.time_base is not None
        self._time_base = stream.time_base
        self._origin = origin
        self._next = origin
        self._usual_duration = usual_duration(stream)

    def span_us(self, pts: int | None, duration: int | None) -> tuple[int, int]:
        """Return when a frame is first shown and until when."""
        begin = self._next if pts is None else pts
        self._next = begin + (duration or self._usual_duration)
        return self._us(begin), self._us(self._next)

    def damage(self, failure: Failure) -> Damage:
        """Return what failed; no time passes by it."""
        if failure.pts is None:
            return Damage(t_us=self._us(self._next), end_us=self._us(self._next))
        end = failure.pts + (failure.duration or self._usual_duration)
        return Damage(t_us=self._us(failure.pts), end_us=self._us(end), is_lost=failure.is_lost)

    def _us(self, time: int) -> int:
        return ceil_us(time - self._origin, self._time_base)
