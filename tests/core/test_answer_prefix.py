"""A video read once answers as the same video in context, however often it is asked."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_answer import ADAPTERS, QUESTIONS
from tests.core.tiny_vlm import COMPACT, PIXELS, TIMED, VOCABULARY, load_tiny_vlm
from video2lora_core.answer import (
    VideoPrefix,
    answer_from_prefix,
    answer_in_context,
    merged,
    read_video,
)
from video2lora_core.errors import ModelMismatchError, PromptError, UsageError
from video2lora_core.inject import adapted
from video2lora_core.vlm import Vlm, in_context_ids

TIMES_US = (500_000, 1_500_000, 2_500_000)
DURATION_US = 3_000_000
WORDS = st.lists(st.sampled_from(VOCABULARY.split()[:30]), min_size=1, max_size=12).map(" ".join)


@pytest.fixture(scope="module", params=[COMPACT, TIMED], ids=["compact", "timed"])
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"), layout=request.param)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    shape = (len(TIMES_US), 3, PIXELS.size_px, PIXELS.size_px)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def prefix(vlm: Vlm, pixels: np.ndarray) -> VideoPrefix:
    return read_video(vlm, pixels, TIMES_US, duration_us=DURATION_US)


@given(questions=st.lists(WORDS, min_size=1, max_size=5))
@settings(max_examples=15)
def test_answers_from_a_prefix_are_those_in_context(
    vlm: Vlm, pixels: np.ndarray, prefix: VideoPrefix, questions: list[str]
):
    found = answer_from_prefix(vlm, prefix, questions, max_new_tokens=6)
    wanted = answer_in_context(
        vlm, pixels, TIMES_US, questions, duration_us=DURATION_US, max_new_tokens=6
    )
    assert [one.new_ids for one in found] == [one.new_ids for one in wanted]
    assert [one.text for one in found] == [one.text for one in wanted]
    for one, other, question in zip(found, wanted, questions, strict=True):
        ids = tuple(in_context_ids(vlm, TIMES_US, DURATION_US, question))
        assert one.prompt_ids == other.prompt_ids == ids
        assert one.num_visual_tokens == len(TIMES_US) * vlm.image_tokens_per_frame
        assert one.time_to_first_token_s <= one.answer_s


def test_answering_never_changes_the_prefix(vlm: Vlm, pixels: np.ndarray, prefix: VideoPrefix):
    before = [tensor.clone() for pair in prefix.layers for tensor in pair]
    shapes = [tensor.data_ptr() for pair in prefix.layers for tensor in pair]
    first = answer_from_prefix(vlm, prefix, QUESTIONS, max_new_tokens=6)
    for _ in range(2):
        answer_from_prefix(vlm, prefix, QUESTIONS[:1], max_new_tokens=6)
    now = [tensor for pair in prefix.layers for tensor in pair]
    assert [tensor.data_ptr() for tensor in now] == shapes
    assert all(map(torch.equal, now, before))
    again = answer_from_prefix(vlm, prefix, QUESTIONS, max_new_tokens=6)
    assert [one.new_ids for one in again] == [one.new_ids for one in first]


def test_the_prefix_holds_every_visual_token_and_its_bytes_are_counted(
    vlm: Vlm, prefix: VideoPrefix
):
    assert prefix.ids.count(vlm.image_token_id) == len(TIMES_US) * vlm.image_tokens_per_frame
    assert prefix.ids[-1] == vlm.image_token_id
    text = vlm.model.config.text_config
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert prefix.size_bytes == per_token * len(prefix.ids)


def test_a_prefix_of_another_model_or_prompt_is_refused(vlm: Vlm, prefix: VideoPrefix):
    with pytest.raises(ModelMismatchError, match="read by weights"):
        answer_from_prefix(replace(vlm, weights_sha256="0" * 64), prefix, QUESTIONS)
    header = replace(vlm.layout, video_header="<|im_start|>Assistant:")
    with pytest.raises(PromptError, match="does not begin with the tokens that were read"):
        answer_from_prefix(replace(vlm, layout=header), prefix, QUESTIONS)


def test_a_video_without_frames_and_frames_without_times_are_refused(vlm: Vlm, pixels: np.ndarray):
    with pytest.raises(PromptError, match="0 frames"):
        read_video(vlm, pixels[:0], [], duration_us=DURATION_US)
    with pytest.raises(PromptError, match="image tokens"):
        read_video(vlm, pixels, TIMES_US[:2], duration_us=DURATION_US)


def test_a_prompt_beyond_the_positions_is_refused(vlm: Vlm, prefix: VideoPrefix):
    with pytest.raises(PromptError, match="expected at most 512"):
        answer_from_prefix(vlm, prefix, ["red " * 500])


def test_nothing_is_read_or_answered_through_an_adapter(
    vlm: Vlm, pixels: np.ndarray, prefix: VideoPrefix
):
    for block in (adapted(vlm.model, ADAPTERS[0]), merged(vlm, ADAPTERS[0])):
        with block:
            with pytest.raises(UsageError, match=re.escape("an adapter injected")):
                read_video(vlm, pixels, TIMES_US, duration_us=DURATION_US)
            with pytest.raises(UsageError, match=re.escape("an adapter injected")):
                answer_from_prefix(vlm, prefix, QUESTIONS)
