"""PLM-VideoBench: region captions, dense region captions, questions about activities.

Source: arXiv 2504.13180; the fields as the README of
huggingface.co/datasets/facebook/PLM-VideoBench lists them, and as lmms-eval reads them
(github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/plm_videobench). JSONL or Parquet:

    sgqa   uid, video, question, answer, domain
    rcap   uid, video, masklet_id, total_frames, start_frame, end_frame, caption
    rdcap  uid, video, masklet_id, total_frames, dense_captions: [{start_frame, end_frame, caption}]

Frames are numbers of frames, not times, and no rate is given: they become a span only where the
video itself is at hand (tasks.benchmark_sets.read); they are kept as metadata. The last frame is
taken as part of the span. Both caption tasks are about one marked region. No mark is drawn here and
the prompt says "the main subject", so scores do not compare with those of models that see the mark.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.benchmark_sets import prompts
from tasks.benchmark_sets.rows import BadRow, Row, RowError, as_row, listed, read_rows, text, whole
from tasks.question_set import SetQuestion

Found = Iterator[tuple[int, SetQuestion | BadRow]]


def plm_sgqa(annotations: Path) -> Found:
    """Read PLM-SGQA."""
    return _each(annotations, _sgqa)


def plm_rcap(annotations: Path) -> Found:
    """Read PLM-RCap: one event of a region, to be described."""
    return _each(annotations, _rcap)


def plm_rdcap(annotations: Path) -> Found:
    """Read PLM-RDCap: all events of a region, in their order, as one reference."""
    return _each(annotations, _rdcap)


def _each(annotations: Path, question_of: Callable[[Row], SetQuestion]) -> Found:
    for line, value in read_rows(annotations):
        try:
            yield line, question_of(as_row(value))
        except RowError as error:
            yield line, BadRow(line=line, reason=str(error))


def _sgqa(row: Row) -> SetQuestion:
    return SetQuestion(
        question_id=f"plm-sgqa:{text(row, 'uid')}",
        video=text(row, "video"),
        question=prompts.SENTENCE.format(question=text(row, "question")),
        references=(text(row, "answer"),),
        question_type=text(row, "domain") if row.get("domain") else None,
    )


def _rcap(row: Row) -> SetQuestion:
    start, end = _frames(row, whole(row, "total_frames"))
    return SetQuestion(
        question_id=f"plm-rcap:{text(row, 'uid')}",
        video=text(row, "video"),
        question=prompts.SUBJECT,
        references=(text(row, "caption"),),
        question_type="region",
        metadata={**_region(row), "start_frame": start, "end_frame": end},
    )


def _rdcap(row: Row) -> SetQuestion:
    total = whole(row, "total_frames")
    events = []
    for position, event in enumerate(listed(row, "dense_captions"), start=1):
        try:
            events.append((*_frames(as_row(event), total), text(event, "caption")))
        except RowError as error:
            raise RowError(f"event {position}: {error}") from None
    return SetQuestion(
        question_id=f"plm-rdcap:{text(row, 'uid')}",
        video=text(row, "video"),
        question=prompts.SUBJECT_OVER_TIME,
        references=(" ".join(caption for _, _, caption in sorted(events)),),
        question_type="region over time",
        metadata=_region(row),
    )


def _region(row: Row) -> dict[str, int]:
    return {name: whole(row, name) for name in ("masklet_id", "total_frames")}


def _frames(row: Row, total: int) -> tuple[int, int]:
    start, end = whole(row, "start_frame"), whole(row, "end_frame")
    if total == 0 or not start <= end <= total:
        raise RowError(f"its frames {start} to {end} of {total} are no span")
    return start, end
