"""Answers beside pictures of what they were answered from, so that a person can judge them."""

import itertools
from collections.abc import Sequence
from typing import Any, Final

from storage.manifest import Source
from storage.overview import Overview
from tasks.html_page import Section, Table, Thumbnail
from tasks.thumbnails import Span, segment_pictures

MAX_SPANS: Final = 6


def answer_sections(seen: Overview, *, limit: int, deadline_s: float) -> list[Section]:
    """Return a section for each video that the last answers are about, or one that says none."""
    answers = seen.answers(limit=limit)
    if not answers:
        return [Section(heading="Answers", paragraphs=["No question was answered in this lake."])]
    sections = []
    for video_id, group in itertools.groupby(answers, key=lambda row: row["video_id"]):
        sections.append(_section(seen, video_id, list(group), deadline_s))
    return sections


def _section(
    seen: Overview, video_id: str | None, answers: Sequence[dict[str, Any]], deadline_s: float
) -> Section:
    spans = {row["answer_id"]: _spans(seen, row) for row in answers}
    shown = _spread(sorted({span for found in spans.values() for span in found}))
    pictures = _pictures(seen, video_id, shown, deadline_s)
    thumbnails = [
        Thumbnail(image=picture, text=_said(span))
        for span, picture in pictures.items()
        if isinstance(picture, bytes)
    ]
    missing = sorted({said for said in pictures.values() if isinstance(said, str)})
    rows = [_row(row, spans[row["answer_id"]]) for row in answers]
    header = ["question", "answer", "expected", "mode", "from (s)", "visual tokens"]
    name = str(answers[0]["uri"] or video_id or "no one video").rpartition("/")[2]
    return Section(
        heading=f"Answers: {name}",
        paragraphs=missing,
        tables=[Table(header=header, rows=rows)],
        thumbnails=thumbnails,
    )


def _pictures(
    seen: Overview, video_id: str | None, spans: Sequence[Span], deadline_s: float
) -> dict[Span, bytes | str]:
    found = None if video_id is None else seen.source(video_id)
    if found is None:
        return dict.fromkeys(spans, "no picture: the catalog does not say where the video is")
    return segment_pictures(Source(**found), spans, deadline_s=deadline_s)


def _spans(seen: Overview, row: dict[str, Any]) -> list[Span]:
    """Return what an answer was given from: its adapters' segments, or the span asked about."""
    if row["parents"]:
        return sorted(seen.spans(row["parents"]).values())
    if row["start_us"] is not None and row["end_us"] is not None:
        return [(row["start_us"], row["end_us"])]
    if row["mode"] == "blind" or not row["duration_us"]:
        return []
    return [(0, row["duration_us"])]


def _spread(spans: Sequence[Span]) -> list[Span]:
    """Take at most MAX_SPANS, evenly from first to last."""
    if len(spans) <= MAX_SPANS:
        return list(spans)
    step = (len(spans) - 1) / (MAX_SPANS - 1)
    return [spans[round(k * step)] for k in range(MAX_SPANS)]


def _row(row: dict[str, Any], spans: Sequence[Span]) -> list[str]:
    return [
        row["question"],
        row["answer"],
        row["reference"] or "",
        " ".join(part for part in (row["mode"], row["strategy"]) if part),
        ", ".join(_said(span) for span in spans[:MAX_SPANS]) + (" ..." * (len(spans) > MAX_SPANS)),
        str(row["num_visual_tokens"]),
    ]


def _said(span: Span) -> str:
    return f"{span[0] / 1e6:g} to {span[1] / 1e6:g} s"
