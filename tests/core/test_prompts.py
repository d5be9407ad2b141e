"""Prompt layouts against the strings of the reference's processor."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.tiny_vlm import COMPACT, TIMED
from video2lora_core.errors import PromptError, UsageError
from video2lora_core.prompts import (
    SMOLVLM2,
    PromptLayout,
    hours_minutes_seconds,
    minutes_seconds,
    refuse_special_tokens,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/preprocess/prompts.json").read_text())


@pytest.mark.parametrize(
    ("case", "duration_s"),
    [("video_150_frames_10fps_one_tile", 15), ("video_1200_frames_25fps_one_tile", 48)],
)
def test_smolvlm2_writes_the_references_video_turn_to_the_letter(case: str, duration_s: int):
    expected = GOLDEN[case]
    stamps = re.findall(r"Frame from (\d+):(\d+):", expected)
    # 0.999 s on top: seconds are floored.
    times_us = [(int(m) * 60 + int(s)) * 1_000_000 + 999_000 for m, s in stamps]
    written = SMOLVLM2.video_text(
        SMOLVLM2.internalization_prompt,
        frame_times_us=times_us,
        duration_us=duration_s * 1_000_000 + 999_999,
        image_tokens_per_frame=4,
    )
    assert written == expected


def test_query_and_target_together_are_the_references_training_text():
    target = SMOLVLM2.target_text("A cat runs.")
    assert target == GOLDEN["train_label_part"]
    assert SMOLVLM2.query_text("What happens?") + target == GOLDEN["train_full"]


def test_timestamps_count_from_the_segment_or_from_the_video():
    span = {"frame_times_us": [61_500_000], "duration_us": 30_000_000, "start_us": 60_000_000}
    absolute = TIMED.video_text("", **span, image_tokens_per_frame=1)
    relative = replace(TIMED, clock="segment").video_text("", **span, image_tokens_per_frame=1)
    assert "one frames 0:01:30" in absolute
    assert "Frame from 01:01:" in absolute
    assert "one frames 0:00:30" in relative
    assert "Frame from 00:01:" in relative


@given(st.integers(min_value=0, max_value=86_399_999_999))
def test_times_are_floored_to_seconds(time_us: int):
    hours, minutes, seconds = map(int, hours_minutes_seconds(time_us).split(":"))
    assert (hours * 60 + minutes) * 60 + seconds == time_us // 1_000_000
    minutes, seconds = map(int, minutes_seconds(time_us).split(":"))
    assert minutes * 60 + seconds == time_us // 1_000_000
    assert seconds < 60


@pytest.mark.parametrize("layout", [SMOLVLM2, COMPACT, TIMED])
def test_a_layout_survives_being_written_down(layout: PromptLayout):
    assert PromptLayout.from_mapping(json.loads(json.dumps(layout.as_dict()))) == layout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fram": "{image}"}, "unknown ['fram']"),
        ({"query": None}, "['query'] are not text"),
        ({"frame": "no placeholder"}, "frame has placeholders []"),
        ({"query": "{question} {answer}"}, "query has placeholders ['answer', 'question']"),
        ({"video_footer": "{text"}, "video_footer is not a template"),
        ({"clock": "wall"}, "clock is 'wall'"),
    ],
)
def test_a_wrong_layout_names_its_fault(change: dict[str, object], message: str):
    with pytest.raises(UsageError, match=re.escape(message)):
        PromptLayout.from_mapping(SMOLVLM2.as_dict() | change)


def test_a_layout_without_a_template_names_it():
    values = SMOLVLM2.as_dict()
    del values["target"]
    with pytest.raises(UsageError, match=re.escape("missing ['target']")):
        PromptLayout.from_mapping(values)


@pytest.mark.parametrize("text", ["", "  \n", "see <image> here", "bye<end_of_utterance>"])
def test_empty_text_and_special_tokens_are_refused(text: str):
    with pytest.raises(PromptError, match="question"):
        refuse_special_tokens(text, special=["<image>", "<end_of_utterance>"], where="question")


def test_braces_in_a_question_stay_as_they_are():
    assert "what is {this} {0}?" in SMOLVLM2.query_text("what is {this} {0}?")
