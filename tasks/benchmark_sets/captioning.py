"""Captioning: ActivityNet Captions, VDC, CaReBench.

ActivityNet Captions (arXiv 1705.00754; train.json, val_1.json, val_2.json of
https://cs.stanford.edu/people/ranjaykrishna/densevid/, the format as its evaluator reads it,
github.com/ranjaykrishna/densevid_eval): one object, `{"v_<id>": {"duration": s, "timestamps":
[[start_s, end_s], ...], "sentences": [...]}}`. Each event is a question about its span.

VDC (arXiv 2410.03051; VDC_1k.jsonl of huggingface.co/datasets/wchai/Video-Detailed-Caption): one
object per line with `video_name` and five captions, `short_caption`, `detailed_caption`,
`background_caption`, `main_object_caption`, `camera_caption`. Its name lacks the suffix.

CaReBench (arXiv 2501.00513; json/metadata.json of huggingface.co/datasets/MCG-NJU/CaReBench): a
list of objects with `video` and `caption`. Only these two fields are confirmed (docs/unverified.md)
so its other dimensions are read from whatever fields are named `<dimension>_caption`.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Final

from tasks.benchmark_sets import prompts
from tasks.benchmark_sets.rows import (
    BadRow,
    Row,
    RowError,
    as_row,
    listed,
    number,
    read_document,
    read_rows,
    text,
)
from tasks.question_set import SetQuestion
from video2lora_core.errors import UsageError

Found = Iterator[tuple[int, SetQuestion | BadRow]]

VDC_STYLES: Final = ("short", "detailed", "background", "main_object", "camera")
_CAPTION: Final = "_caption"


def activitynet_captions(annotations: Path) -> Found:
    """Read the events of ActivityNet Captions."""
    content = read_document(annotations)
    if not isinstance(content, dict):
        raise UsageError(
            f"{annotations}: holds a {type(content).__name__} (expected an object of videos); give"
            " train.json, val_1.json or val_2.json"
        )
    for entry, (video, row) in enumerate(content.items(), start=1):
        try:
            spans, sentences = listed(as_row(row), "timestamps"), listed(row, "sentences")
            duration_s = number(row.get("duration"), "duration")
        except RowError as error:
            yield entry, BadRow(line=entry, reason=f"{video}: {error}")
            continue
        for event, (span, sentence) in enumerate(zip_longest(spans, sentences), start=1):
            try:
                yield entry, _event(video, event, span, sentence, duration_s)
            except RowError as error:
                yield entry, BadRow(line=entry, reason=f"{video}, event {event}: {error}")


def _event(
    video: str, event: int, span: object, sentence: object, duration_s: float
) -> SetQuestion:
    if not isinstance(span, list) or len(span) != 2:
        raise RowError("its timestamp is no pair of seconds")
    start_s, end_s = (number(instant, "timestamps") for instant in span)
    # Annotators marked ends a little beyond the video's.
    end_s = min(end_s, duration_s)
    if not 0 <= start_s < end_s:
        raise RowError(f"its span {start_s:g} s to {end_s:g} s is empty or starts before 0")
    return SetQuestion(
        question_id=f"activitynet-captions:{video}:{event}",
        video=video,
        question=prompts.EVENT,
        references=(text({"sentences": sentence}, "sentences"),),
        question_type="event",
        start_us=round(start_s * 1e6),
        end_us=round(end_s * 1e6),
    )


def vdc(annotations: Path) -> Found:
    """Read the five captions of each video of VDC."""
    for line, value in read_rows(annotations):
        try:
            row = as_row(value)
            video = text(row, "video_name")
        except RowError as error:
            yield line, BadRow(line=line, reason=str(error))
            continue
        for style in VDC_STYLES:
            yield line, _caption(line, row, f"{style}{_CAPTION}", name="vdc", video=video)


def carebench(annotations: Path) -> Found:
    """Read the captions of each video of CaReBench."""
    for line, value in read_rows(annotations):
        try:
            row = as_row(value)
            video = text(row, "video")
        except RowError as error:
            yield line, BadRow(line=line, reason=str(error))
            continue
        others = sorted(field for field in row if str(field).endswith(_CAPTION))
        for field in ("caption", *others):
            yield line, _caption(line, row, field, name="carebench", video=video)


def _caption(line: int, row: Row, field: str, *, name: str, video: str) -> SetQuestion | BadRow:
    style = field.removesuffix(_CAPTION) if field.endswith(_CAPTION) else "general"
    try:
        reference = text(row, field)
    except RowError as error:
        return BadRow(line=line, reason=f"{video}: {error}")
    return SetQuestion(
        question_id=f"{name}:{video}:{style}",
        video=video,
        question=prompts.CAPTIONS.get(style, prompts.CAPTIONS["general"]),
        references=(reference,),
        question_type=style,
    )
