"""The template that came with a model against the layout we write."""

import json
import logging
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast
from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

from video2lora_core.chat_template import check_chat_template, read_chat_template
from video2lora_core.errors import ModelMismatchError
from video2lora_core.prompts import SMOLVLM2
from video2lora_core.stand_in_tokenizer import stand_in_tokenizer

OTHER = "{% for m in messages %}<s>{{ m['content'][-1]['text'] }}</s>{% endfor %}"
OWN = replace(SMOLVLM2, video_header="<|im_start|>User:", frame="{image}")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=stand_in_tokenizer())


def test_smolvlm2s_public_template_writes_what_the_layout_writes(tmp_path, tokenizer, caplog):
    (tmp_path / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE)
    check_chat_template(tmp_path, tokenizer, SMOLVLM2)
    check_chat_template(tmp_path, tokenizer, replace(SMOLVLM2, internalization_prompt="Other."))
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chat_template.jinja", OTHER),
        ("chat_template.json", json.dumps({"chat_template": OTHER})),
        ("tokenizer_config.json", json.dumps({"chat_template": OTHER})),
        (
            "tokenizer_config.json",
            json.dumps({"chat_template": [{"name": "default", "template": OTHER}]}),
        ),
    ],
)
def test_another_template_is_an_error_that_shows_both(tmp_path, tokenizer, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelMismatchError, match=r"<s>What is seen\?</s>.*im_start.*Assistant:"):
        check_chat_template(tmp_path, tokenizer, SMOLVLM2)


def test_a_layout_of_ones_own_is_only_warned_about(tmp_path, tokenizer, caplog):
    (tmp_path / "chat_template.jinja").write_text(OTHER)
    with caplog.at_level(logging.WARNING):
        check_chat_template(tmp_path, tokenizer, OWN)
    assert "<s>What is seen?</s>" in caplog.text


def test_a_template_that_writes_videos_otherwise_is_warned_about(tmp_path, tokenizer, caplog):
    (tmp_path / "chat_template.jinja").write_text(DEFAULT_CHAT_TEMPLATE.replace("<video>", "<v>"))
    with caplog.at_level(logging.WARNING):
        check_chat_template(tmp_path, tokenizer, SMOLVLM2)
    assert "a video's turn" in caplog.text


def test_a_template_that_is_a_program_does_not_run(tmp_path, tokenizer):
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    (tmp_path / "chat_template.jinja").write_text(escape)
    with pytest.raises(ModelMismatchError, match="writes None"):
        check_chat_template(tmp_path, tokenizer, SMOLVLM2)


def test_a_model_without_a_template_is_not_compared(tmp_path, tokenizer):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert read_chat_template(tmp_path) is None
    check_chat_template(tmp_path, tokenizer, SMOLVLM2)
