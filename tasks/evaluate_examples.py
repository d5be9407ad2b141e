"""Questions to be looked at: frames of the video, the reference, and what every mode said."""

import base64
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tasks.evaluate_comparison import Said
from tasks.evaluate_corpus import EvaluatedVideo
from tasks.source_file import SourceFile
from video2lora_core.errors import VideoError
from video2lora_core.frames import SegmentFrames, decode
from video2lora_core.segments import Segment

logger = logging.getLogger(__name__)

_NUM_FRAMES = 4
_WIDTH_PX = 200
_GAP_PX = 4
_RIGHT = "exact_match"


def make_examples(
    said: Mapping[str, Sequence[Said]], videos: Sequence[EvaluatedVideo], *, count: int
) -> list[dict[str, Any]]:
    """Pick questions and draw their videos; the answers that differ from the reference come first.

    At most half are wrong ones of the first mode; the rest goes through the question types.
    """
    by_id = {video.video_id: video for video in videos}
    first = next(iter(said.values()), ())
    answers = {
        mode: {given.question_id: given for given in listed} for mode, listed in said.items()
    }
    return [
        {
            "question": given.question,
            "question_type": given.question_type,
            "references": list(given.references),
            "seconds": [(given_us or 0) / 1e6 for given_us in _span(by_id[given.video_id], given)],
            "answers": [
                [mode, listed[given.question_id].text, _is_right(listed[given.question_id])]
                for mode, listed in answers.items()
                if given.question_id in listed
            ],
            "jpeg": _contact_sheet(by_id[given.video_id]),
        }
        for given in _picked(list(first), count)
        if given.video_id in by_id
    ]


def _span(video: EvaluatedVideo, given: Said) -> tuple[int, int]:
    asked = next((q for q in video.questions if q.question_id == given.question_id), None)
    if asked is None:
        return 0, video.duration_us
    end_us = video.duration_us if asked.end_us is None else asked.end_us
    return asked.start_us or 0, end_us


def _is_right(given: Said) -> bool | None:
    found = given.score().values.get(_RIGHT)
    return None if found is None else found == 1.0


def _picked(said: Sequence[Said], count: int) -> list[Said]:
    wrong = _one_per_video(given for given in said if _is_right(given) is False)
    picked = wrong[: count // 2]
    taken = {given.question_id for given in picked}
    rest = [
        given for given in said if given.question_id not in taken and _is_right(given) is not False
    ]
    by_type: dict[str | None, list[Said]] = {}
    for place, given in enumerate(rest):
        # From different videos: each type begins at another place of the set.
        by_type.setdefault(given.question_type, []).insert(place % 7, given)
    while len(picked) < count and any(by_type.values()):
        picked += [listed.pop(0) for listed in by_type.values() if listed][: count - len(picked)]
    return picked


def _one_per_video(said: Iterator[Said]) -> list[Said]:
    return list({given.video_id: given for given in said}.values())


def _contact_sheet(video: EvaluatedVideo) -> str | None:
    """Return frames of a video, two by two, as a JPEG in base64; None where it cannot be read."""
    whole = Segment(start_us=0, end_us=video.duration_us)
    try:
        with SourceFile(video.source) as file:
            (found,) = decode(file.path(), [whole], num_frames=_NUM_FRAMES, prepare=_small)
    except VideoError as error:
        logger.warning("video %s: not shown: %s", video.video_id[:12], error)
        return None
    if not isinstance(found, SegmentFrames):
        return None
    out = io.BytesIO()
    _tiled(found.pixels).save(out, format="JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def _small(frame: np.ndarray) -> np.ndarray:
    height_px, width_px, _ = frame.shape
    size = (_WIDTH_PX, max(1, round(_WIDTH_PX * height_px / width_px)))
    image = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _tiled(frames: np.ndarray) -> Image.Image:
    _, _, height_px, width_px = frames.shape
    sheet = Image.new("RGB", (2 * width_px + _GAP_PX, 2 * height_px + _GAP_PX), "white")
    for place, frame in enumerate(frames):
        row, column = divmod(place, 2)
        corner = (column * (width_px + _GAP_PX), row * (height_px + _GAP_PX))
        sheet.paste(Image.fromarray(frame.transpose(1, 2, 0)), corner)
    return sheet
