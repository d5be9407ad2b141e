"""The stand-in tokenizer has SmolVLM2's special tokens and about its lengths."""

import pytest

from video2lora_core.prompts import SMOLVLM2
from video2lora_core.stand_in_tokenizer import VOCAB_SIZE, stand_in_tokenizer


@pytest.mark.parametrize(
    ("token", "identity"),
    [
        ("<|endoftext|>", 0),
        ("<|im_start|>", 1),
        ("<|im_end|>", 2),
        ("<global-img>", 49152),
        ("<row_1_col_1>", 49153),
        ("<row_6_col_6>", 49188),
        ("<fake_token_around_image>", 49189),
        ("<image>", 49190),
        ("<end_of_utterance>", 49279),
    ],
)
def test_special_tokens_have_their_public_ids(token, identity):
    tokenizer = stand_in_tokenizer()
    assert tokenizer.token_to_id(token) == identity
    assert tokenizer.encode(f"a{token}b").ids.count(identity) == 1
    assert tokenizer.get_vocab_size() == VOCAB_SIZE


def test_it_is_the_same_every_time_and_says_what_it_is():
    assert stand_in_tokenizer().to_str() == stand_in_tokenizer().to_str()
    assert "<stand-in-" in stand_in_tokenizer().to_str()


@pytest.mark.parametrize(("tokens_per_frame", "about"), [(64, 980), (81, 1190)])
def test_prompts_are_as_long_as_the_real_ones(tokens_per_frame, about):
    """METHOD.md, Sizes: tokens of 12 frames, within 2%."""
    text = SMOLVLM2.video_text(
        SMOLVLM2.internalization_prompt,
        frame_times_us=[1_250_000 + 2_500_000 * index for index in range(12)],
        duration_us=30_000_000,
        image_tokens_per_frame=tokens_per_frame,
    )
    tokenizer = stand_in_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) == pytest.approx(about, rel=0.02)
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_any_text_comes_back():
    tokenizer = stand_in_tokenizer()
    text = "Zwölf Boote, 12 \N{SNOWMAN}!"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
