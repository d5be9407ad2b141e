"""The page about a run: how fast, where the time went, what was rejected, what was answered.

Everything comes from the catalog except the pictures of segments, which are decoded from the
sources where these can still be read. A run that goes on can be reported on too.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from storage.errors import LakeError
from storage.lake import open_lake
from storage.overview import Overview, look_at
from tasks.html_page import Section, Table, html_page
from tasks.run_report_answers import answer_sections
from tasks.run_report_pictures import busy_picture, throughput_picture
from tasks.status import RunStatus, read_status

_PICTURES_S: Final = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSettings:
    """What to report on, and where to."""

    lake: str
    out: Path
    run: str | None = None
    """The first digits of a run_id; the last run if not given."""
    price: float | None = None
    """What an hour of a device costs."""
    num_answers: int = 24
    """Most answers to show."""


def write_report(settings: ReportSettings) -> dict[str, Any]:
    """Write the page and say what is in it.

    Raises:
        LakeError: there is no lake, or no run in it, or the page cannot be written.
    """
    found = read_status(settings.lake, run=settings.run, price=settings.price)
    if not found.runs:
        raise LakeError(
            f"{settings.lake}: no run to report on; start one with `video2lora internalize`"
        )
    run = found.runs[0]
    with look_at(open_lake(settings.lake), run=run.run_id) as seen:
        sections = [
            _summary(run),
            _throughput(seen),
            _rejects(seen, run),
            _videos(seen),
            *_answers(settings, seen),
        ]
    lead = f"{run.corpus or 'corpus not named'} into {settings.lake}; run {run.run_id}"
    page = html_page(f"Run {run.run_id[:12]}", sections, lead=lead)
    try:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise LakeError(
            f"{settings.out}: cannot write the report ({error.strerror}); give another --out"
        ) from error
    return {
        "run_id": run.run_id,
        "out": str(settings.out),
        "size_bytes": len(page.encode()),
        "sections": [section.heading for section in sections],
    }


def _summary(run: RunStatus) -> Section:
    planned = datetime.fromtimestamp(run.planned_at_s, UTC)
    rows = [
        ["state", run.state],
        ["planned", f"{planned:%Y-%m-%d %H:%M:%S} UTC"],
        ["shards done", f"{run.num_shards_done} of {_known(run.num_shards)}"],
        ["videos met", f"{run.num_videos_met} of {_known(run.num_videos)}"],
        ["segments", str(run.num_segments)],
        ["rejects", str(run.num_rejects)],
        ["video turned into adapters", f"{run.video_hours:.4g} h"],
        ["time at work", f"{run.active_s:.1f} s"],
        ["segments per second", _figure(run.segments_per_s)],
        ["video-hours per hour", _figure(run.video_hours_per_hour)],
        ["device seconds per video-hour", _figure(run.device_s_per_video_hour)],
    ]
    if run.cost is not None:
        rows += [
            ["cost of the device's busy time", _figure(run.cost)],
            ["cost of holding the device", _figure(run.cost_held)],
            ["cost per video-hour", _figure(run.cost_per_video_hour)],
        ]
    if run.left_s is not None:
        rows.append(["time left, if the rest is alike", f"{run.left_s:.0f} s"])
    said = {
        "published": "The run is finished and published.",
        "planned": "The run was planned and has committed nothing yet.",
        "failed": "The last thing that the run said is that it failed.",
        "running": "The run is not finished: this page shows what is committed so far.",
    }
    return Section(
        heading="Summary",
        paragraphs=[said.get(run.state, "")],
        tables=[Table(header=["what", "how much"], rows=rows)],
    )


def _throughput(seen: Overview) -> Section:
    drawn = [throughput_picture(seen.units()), busy_picture(seen.shards())]
    pictures = [picture for picture in drawn if picture is not None]
    rows = [
        [
            str(shard["shard"]),
            str(shard["num_segments"]),
            f"{shard['decode_s']:.1f}",
            f"{shard['device_s']:.1f}",
            f"{shard['wall_s']:.1f}",
            str(shard["num_attempts"]),
            str(shard["worker"] or ""),
        ]
        for shard in seen.shards()[:64]
    ]
    header = ["shard", "segments", "decode s", "device s", "held s", "attempts", "last worker"]
    return Section(
        heading="Throughput and stages",
        paragraphs=[] if pictures else ["Too little is committed to draw anything."],
        tables=[Table(header=header, rows=rows)] if rows else [],
        pictures=pictures,
    )


def _rejects(seen: Overview, run: RunStatus) -> Section:
    by_reason = seen.rejects()
    if not by_reason:
        said = "Nothing is rejected." if run.num_units else "Nothing was tried yet."
        return Section(heading="Rejects", paragraphs=[said])
    counted = [[r["reason"], str(r["num_rejects"]), str(r["num_terminal"])] for r in by_reason]
    examples = [
        [
            row["reason"],
            str(row["what"] or ""),
            "" if row["start_us"] is None else f"{row['start_us'] / 1e6:g}",
            row["detail"] or "",
            str(row["attempt"]),
        ]
        for row in seen.reject_examples()
    ]
    return Section(
        heading="Rejects",
        paragraphs=["What this run could not use; docs/corpus.md says what can be done."],
        tables=[
            Table(header=["reason", "number", "final"], rows=counted),
            Table(
                header=["reason", "video", "at s", "detail", "attempt"],
                rows=examples,
                caption="Up to three examples of each reason",
            ),
        ],
    )


def _videos(seen: Overview) -> Section:
    lengths = [
        [
            row["outcome"],
            str(row["num_segments"]),
            f"{row['total_us'] / 1e6:.1f}",
            *(f"{row[f'{name}_us'] / 1e6:g}" for name in ("least", "median", "most")),
        ]
        for row in seen.lengths()
    ]
    if not lengths:
        return Section(heading="Videos and segments", paragraphs=["No segment is committed yet."])
    total_us = sum(row["total_us"] for row in seen.lengths())
    good_us = sum(row["total_us"] for row in seen.lengths() if row["outcome"] == "adapter")
    slow = [_slow_row(row) for row in seen.slowest_videos()]
    return Section(
        heading="Videos and segments",
        paragraphs=[f"Adapters cover {100 * good_us / max(1, total_us):.1f}% of the time tried."],
        tables=[
            Table(
                header=["outcome", "segments", "total s", "shortest s", "median s", "longest s"],
                rows=lengths,
                caption="Segments",
            ),
            Table(
                header=[
                    "video",
                    "length s",
                    "codec",
                    "px",
                    "segments",
                    "decode s",
                    "x real time",
                ],
                rows=slow,
                caption="The videos that took longest to decode",
            ),
        ],
    )


def _slow_row(row: dict[str, Any]) -> list[str]:
    duration_s = (row["duration_us"] or 0) / 1e6
    size = f"{row['width_px']}x{row['height_px']}" if row["width_px"] else ""
    speed = f"{duration_s / row['decode_s']:.1f}" if row["decode_s"] > 0 and duration_s else ""
    return [
        str(row["uri"] or row["video_id"]),
        f"{duration_s:.1f}",
        str(row["codec"] or ""),
        size,
        str(row["num_segments"]),
        f"{row['decode_s']:.2f}",
        speed,
    ]


def _answers(settings: ReportSettings, seen: Overview) -> Sequence[Section]:
    if not settings.num_answers:
        return []
    # Answers have runs of their own, so all of the lake's are looked at.
    with look_at(open_lake(settings.lake)) as everything:
        return answer_sections(
            everything,
            limit=settings.num_answers,
            deadline_s=time.monotonic() + _PICTURES_S,
        )


def _known(value: int | None) -> str:
    return "?" if value is None else str(value)


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
