"""The word-level tokenizer: it knows every word of the world and nothing plain is special."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from video2lora_core.shapes_world import ask_all, caption, sample_world
from video2lora_core.shapes_world.tokenizer import (
    SPECIAL_TOKENS,
    UNKNOWN,
    build_tokenizer,
    vocabulary,
    vocabulary_size,
)
from video2lora_core.shapes_world.world import HELD_OUT_PAIRS, SEEN_PAIRS

TOKENIZER = build_tokenizer()
WORLDS = {"seen": SEEN_PAIRS, "held out": HELD_OUT_PAIRS}


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module", params=WORLDS)
def texts(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """Every (question, answer) of many videos, each once."""
    pairs, most = WORLDS[request.param], 4 if request.param == "seen" else 1
    worlds = [sample_world(seed, num_scenes=1 + seed % most, pairs=pairs) for seed in range(600)]
    told = {(q.text, q.answer) for w in worlds for q in ask_all(w, seed=0, pairs=pairs)}
    told |= {("Describe the video.", caption(scene)) for w in worlds for scene in w.scenes}
    return sorted(told)


def test_every_word_of_the_world_has_a_token(texts: list[tuple[str, str]]) -> None:
    unknown = vocabulary()[UNKNOWN]
    assert [text for pair in texts for text in pair if unknown in ids(text)] == []


def test_an_answer_decodes_to_itself(texts: list[tuple[str, str]]) -> None:
    for question, answer in texts:
        end = ids(f" {answer}<end_of_utterance>\n")
        assert TOKENIZER.decode(end, skip_special_tokens=True) == answer
        assert TOKENIZER.decode(ids(question)) == question.lower().replace("?", " ?").replace(
            ".", " ."
        )


def test_a_token_is_a_word(texts: list[tuple[str, str]]) -> None:
    for _, answer in texts:
        assert len(ids(answer)) == len(answer.split())


def test_color_reads_as_colour_and_case_does_not_matter() -> None:
    assert ids("What COLOR is the Ball?") == ids("what colour is the ball?")
    assert vocabulary()[UNKNOWN] not in ids("What color is the ball?")


def test_a_word_of_another_world_is_unknown() -> None:
    assert ids("ball giraffe") == [vocabulary()["ball"], vocabulary()[UNKNOWN]]


def test_each_special_token_is_one_token() -> None:
    for token in SPECIAL_TOKENS:
        assert ids(token) == [vocabulary()[token]]
        assert ids(f"ball{token}ball")[1] == vocabulary()[token]


@given(
    st.lists(
        st.sampled_from(
            [*"<>|_:/ \n", "image", "IMAGE", "user", "USER:", "Assistant", "im", "start", "pad"]
        )
        | st.text(max_size=4),
        max_size=12,
    ).map("".join)
)
def test_plain_text_never_becomes_a_special_token(text: str) -> None:
    if not any(token in text for token in SPECIAL_TOKENS):
        special = {vocabulary()[token] for token in SPECIAL_TOKENS} - {vocabulary()[UNKNOWN]}
        assert not special & set(ids(text))


def test_ids_are_dense_and_padded_to_whole_kernels() -> None:
    assert sorted(vocabulary().values()) == list(range(len(vocabulary())))
    assert vocabulary_size() % 16 == 0
    assert 0 <= vocabulary_size() - len(vocabulary()) < 16


def test_a_saved_tokenizer_reads_back(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    read = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "<|im_start|>User: Is there a cyan cross?<end_of_utterance>\nAssistant:"
    assert read.encode(text, add_special_tokens=False) == ids(text)
