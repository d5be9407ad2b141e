"""Read a benchmark: its questions, and the rows that are none."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tasks.benchmark_sets.known import BENCHMARKS
from tasks.benchmark_sets.rows import BadRow, RowError
from tasks.benchmark_sets.video_files import VideoFiles
from tasks.question_set import SetQuestion
from video2lora_core.errors import UsageError, VideoError
from video2lora_core.probe import probe


def read_benchmark(
    name: str, annotations: Path, videos: Path | None = None
) -> tuple[list[SetQuestion], list[BadRow]]:
    """Return a benchmark's questions, and the rows that are none.

    Args:
        name: One of `BENCHMARKS`.
        annotations: Its annotation file.
        videos: Directory of its videos: each question then names a file, and one whose video is
            missing is a bad row. Without it questions keep the benchmark's own names.

    Raises:
        UsageError: the name is unknown, or a file or directory cannot be used.
    """
    found = list(stream_benchmark(name, annotations, videos))
    return (
        [one for one in found if isinstance(one, SetQuestion)],
        [one for one in found if isinstance(one, BadRow)],
    )


def stream_benchmark(
    name: str, annotations: Path, videos: Path | None = None
) -> Iterator[SetQuestion | BadRow]:
    """Stream what `read_benchmark` returns, in the file's order.

    Raises:
        UsageError: as `read_benchmark`.
    """
    if name not in BENCHMARKS:
        raise UsageError(
            f"{name}: not a known benchmark (expected one of {', '.join(BENCHMARKS)}); for a set of"
            " your own write the columns video and question (docs/benchmark-sets.md)"
        )
    benchmark = BENCHMARKS[name]
    place = _Placement(VideoFiles(videos)) if videos else None
    seen: set[str] = set()
    for line, found in benchmark.read(annotations):
        if isinstance(found, BadRow):
            yield found
            continue
        try:
            if found.question_id in seen:
                raise RowError(f"question {found.question_id} is there twice")
            seen.add(found.question_id)
            yield place(found, is_in_frames=benchmark.has_frame_spans) if place else found
        except RowError as error:
            yield BadRow(line=line, reason=str(error))


class _Placement:
    """Gives questions their files, and frames their times."""

    def __init__(self, files: VideoFiles) -> None:
        self._files = files
        self._durations_us: dict[Path, int] = {}

    def __call__(self, question: SetQuestion, *, is_in_frames: bool) -> SetQuestion:
        path = self._files.find(question.video)
        placed = replace(question, video=str(path))
        if not is_in_frames:
            return placed
        total, duration_us = question.metadata["total_frames"], self._duration_us(path)
        start, end = question.metadata["start_frame"], question.metadata["end_frame"] + 1
        return replace(
            placed,
            start_us=duration_us * start // total,
            end_us=duration_us * min(end, total) // total,
        )

    def _duration_us(self, path: Path) -> int:
        if path not in self._durations_us:
            try:
                self._durations_us[path] = probe(path).duration_us
            except VideoError as error:
                shown = f"video {path.name}: {error.reason}, so its length is unknown"
                raise RowError(shown) from error
        return self._durations_us[path]
