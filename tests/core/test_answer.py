"""Answers: text only, batched as one by one, and equal to transformers' own generate."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.core.tiny_vlm import D_FF, D_MODEL, PIXELS, load_tiny_vlm
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.answer import Answer, answer, answer_in_context
from video2lora_core.errors import AdapterError, ModelMismatchError, PromptError, UsageError
from video2lora_core.inject import adapted
from video2lora_core.pixels import normalise
from video2lora_core.vlm import Vlm, in_context_ids, query_ids

QUESTIONS = ("What is the colour of the ball?", "How many?", "Is there a red ball or a blue one?")
TIMES_US = (0, 1_000_000, 2_000_000)
DURATION_US = 3_000_000


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    shape = (len(TIMES_US), 3, PIXELS.size_px, PIXELS.size_px)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def random_adapter(rank: int, *, seed: int, d_in: int = D_FF, has_bias: bool = True) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = Factors(
        a=torch.randn(3, rank, d_in, generator=generator) / d_in**0.5,
        b=torch.randn(3, rank, D_MODEL, generator=generator) / 4,
    )
    return Adapter(
        factors={"down_proj": factors},
        layers=(0, 1, 2),
        scaling=2.0,
        checkpoint_sha256="c" * 64,
        has_bias=has_bias,
    )


ADAPTERS = (
    random_adapter(4, seed=1),
    random_adapter(9, seed=2),
    random_adapter(1, seed=3),
)


def generated(vlm: Vlm, num_new: int, **inputs: object) -> list[int]:
    """Ask transformers' own greedy generate."""
    ids = vlm.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=num_new,
        eos_token_id=vlm.end_token_id,
        pad_token_id=0,
    )
    return ids[0].tolist()


def text_of(vlm: Vlm, ids: list[int]) -> str:
    return vlm.tokenizer.decode(ids, skip_special_tokens=True).strip()


def texts(answers: list[Answer]) -> list[str]:
    return [one.text for one in answers]


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_what_transformers_generates(vlm: Vlm, question: str):
    prompt = query_ids(vlm, question)
    with adapted(vlm.model, ADAPTERS[0]):
        ids = generated(vlm, 8, input_ids=torch.tensor([prompt]))[len(prompt) :]
    (found,) = answer(vlm, [question], adapters=[ADAPTERS[0]], max_new_tokens=8)
    assert found.text == text_of(vlm, ids)
    assert found.prompt_ids == tuple(prompt)
    assert (found.num_prompt_tokens, found.num_visual_tokens) == (len(prompt), 0)
    assert found.num_new_tokens == len([i for i in ids if i != vlm.end_token_id])
    assert found.time_to_first_token_s > 0


def test_a_batch_of_different_adapters_answers_as_one_by_one(vlm: Vlm):
    together = answer(vlm, QUESTIONS, adapters=ADAPTERS, max_new_tokens=12)
    alone = [
        answer(vlm, [question], adapters=[adapter], max_new_tokens=12)[0]
        for question, adapter in zip(QUESTIONS, ADAPTERS, strict=True)
    ]
    assert texts(together) == texts(alone)
    assert [a.num_new_tokens for a in together] == [a.num_new_tokens for a in alone]
    blind = answer(vlm, QUESTIONS, max_new_tokens=12)
    assert len({*texts(together), *texts(blind)}) > 3


def test_one_adapter_serves_every_row(vlm: Vlm):
    for_all = answer(vlm, QUESTIONS, adapters=ADAPTERS[1], max_new_tokens=6)
    each = answer(vlm, QUESTIONS, adapters=[ADAPTERS[1]] * 3, max_new_tokens=6)
    assert texts(for_all) == texts(each)


def test_an_answer_ends_before_the_end_token_while_other_rows_go_on(vlm: Vlm):
    ids = [
        generated(vlm, 6, input_ids=torch.tensor([prompt]))[len(prompt) :]
        for prompt in (query_ids(vlm, question) for question in QUESTIONS)
    ]
    # Any word may end an answer: take one that ends some rows early.
    end = ids[0][2]
    stopping = replace(
        vlm, layout=replace(vlm.layout, end_token=vlm.tokenizer.convert_ids_to_tokens(end))
    )
    expected = [row[: row.index(end)] if end in row else row for row in ids]
    found = answer(stopping, QUESTIONS, max_new_tokens=6)
    assert [a.num_new_tokens for a in found] == [len(row) for row in expected]
    assert texts(found) == [text_of(vlm, row) for row in expected]
    (first,) = answer(stopping, QUESTIONS[:1], max_new_tokens=6)
    assert first.text == found[0].text


def test_the_model_is_as_before_after_an_answer(vlm: Vlm):
    before = answer(vlm, QUESTIONS, max_new_tokens=4)
    answer(vlm, QUESTIONS, adapters=ADAPTERS, max_new_tokens=4)
    assert texts(answer(vlm, QUESTIONS, max_new_tokens=4)) == texts(before)
    assert not any(module._forward_hooks for module in vlm.model.modules())


def test_in_context_answers_are_what_transformers_generates_from_the_frames(
    vlm: Vlm, pixels: np.ndarray
):
    found = answer_in_context(
        vlm, pixels, TIMES_US, QUESTIONS, duration_us=DURATION_US, max_new_tokens=6
    )
    for question, one in zip(QUESTIONS, found, strict=True):
        prompt = in_context_ids(vlm, TIMES_US, DURATION_US, question)
        ids = generated(
            vlm,
            6,
            input_ids=torch.tensor([prompt]),
            pixel_values=normalise(torch.tensor(pixels))[None],
        )
        assert one.text == text_of(vlm, ids[len(prompt) :])
        assert one.prompt_ids == tuple(prompt)
        assert one.num_visual_tokens == len(TIMES_US) * vlm.image_tokens_per_frame
        assert one.num_prompt_tokens == len(prompt)


def test_the_frames_in_context_decide_the_answer(vlm: Vlm, pixels: np.ndarray):
    shown = {"times_us": TIMES_US, "questions": QUESTIONS, "duration_us": DURATION_US}
    left = answer_in_context(vlm, pixels, **shown)
    right = answer_in_context(vlm, 255 - pixels, **shown)
    assert texts(left) != texts(right)


def test_a_query_template_with_a_visual_token_is_refused(vlm: Vlm):
    layout = replace(vlm.layout, query="<image>{question}<end_of_utterance>\nAssistant:")
    with pytest.raises(PromptError, match=re.escape("prompts hold [1] visual tokens")):
        answer(replace(vlm, layout=layout), QUESTIONS[:1])


def test_a_question_cannot_bring_a_visual_token(vlm: Vlm):
    with pytest.raises(PromptError, match="<image>"):
        answer(vlm, ["What is <image>?"])


def test_an_adapter_without_the_bias_is_refused(vlm: Vlm):
    adapters = [ADAPTERS[0], random_adapter(4, seed=5, has_bias=False)]
    with pytest.raises(AdapterError, match=re.escape("rows [1] lack the bias")):
        answer(vlm, QUESTIONS[:2], adapters=adapters)


def test_adapters_come_one_per_question(vlm: Vlm):
    with pytest.raises(AdapterError, match="2 adapters for 3 questions"):
        answer(vlm, QUESTIONS, adapters=ADAPTERS[:2])


def test_an_adapter_of_another_model_is_refused(vlm: Vlm):
    with pytest.raises(ModelMismatchError):
        answer(vlm, QUESTIONS[:1], adapters=[random_adapter(2, seed=0, d_in=D_FF + 1)])


def test_no_question_and_no_room_are_refused(vlm: Vlm, pixels: np.ndarray):
    with pytest.raises(UsageError, match="0 questions"):
        answer(vlm, [])
    with pytest.raises(UsageError, match="max_new_tokens 0"):
        answer(vlm, QUESTIONS, max_new_tokens=0)
    with pytest.raises(PromptError, match="expected at most 512"):
        answer(vlm, ["red " * 500])
    many = np.repeat(pixels, 40, axis=0)
    with pytest.raises(PromptError, match="show fewer frames"):
        answer_in_context(vlm, many, TIMES_US * 40, QUESTIONS, duration_us=DURATION_US)


def test_frames_and_times_must_match_in_context(vlm: Vlm, pixels: np.ndarray):
    with pytest.raises(PromptError, match="image tokens"):
        answer_in_context(vlm, pixels, TIMES_US[:2], QUESTIONS, duration_us=DURATION_US)


def test_in_context_answers_never_go_through_an_adapter(vlm: Vlm, pixels: np.ndarray):
    with adapted(vlm.model, ADAPTERS[0]), pytest.raises(UsageError, match="adapter injected"):
        answer_in_context(vlm, pixels, TIMES_US, QUESTIONS, duration_us=DURATION_US)
