"""The chat template that came with a model, held against the prompt layout we write.

The layout belongs to the hypernetwork's checkpoint, so it is what is used; the template tells
whether the directory holds the model that the layout was written for. Choices:

* A text-only turn that comes out differently is an error for the layout of a released model:
  answers would be worse without a sign. For a layout of one's own it is a warning.
* A turn with a video is only warned about: transformers itself sets a model's own template aside
  where there is a video.
* Templates run in transformers' sandbox; a model without one is not compared.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from video2lora_core.errors import ModelMismatchError
from video2lora_core.prompts import SMOLVLM2, PromptLayout

logger = logging.getLogger(__name__)

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_QUESTION = "What is seen?"
_VIDEO = "<video>"


def check_chat_template(
    directory: Path, tokenizer: PreTrainedTokenizerFast, layout: PromptLayout
) -> None:
    """Compare the directory's chat template, where there is one, with `layout`.

    Raises:
        ModelMismatchError: a released model's layout, and another text-only turn.
    """
    template = read_chat_template(directory)
    if template is None:
        return
    text = {"type": "text", "text": _QUESTION}
    theirs = _rendered(tokenizer, template, [text], is_answered=True)
    ours = layout.query_text(_QUESTION)
    if theirs != ours:
        message = (
            f"vlm: the chat template in {directory} writes {theirs!r} (the prompt layout writes "
            f"{ours!r}); use the model that the layout was written for, or its layout"
        )
        if _is_released(layout):
            raise ModelMismatchError(message)
        logger.warning("%s", message)
    theirs = _rendered(tokenizer, template, [{"type": "video"}, text], is_answered=False)
    frames = layout.video_header + layout.video_footer.format(text=_QUESTION)
    if _is_released(layout) and not _agrees(theirs, frames, layout):
        logger.warning(
            "vlm: the chat template in %s writes a video's turn as %r, the prompt layout writes "
            "its frames between %r; the layout is used",
            directory,
            theirs,
            frames,
        )


def read_chat_template(directory: Path) -> str | None:
    """Return the template text of a model's directory, from the first file that has one."""
    for name in TEMPLATE_FILES:
        path = directory / name
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        found = text if path.suffix == ".jinja" else _default(json.loads(text))
        if found:
            return found
    return None


def _default(content: dict[str, Any]) -> str | None:
    template = content.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _is_released(layout: PromptLayout) -> bool:
    """Whether the words are SmolVLM2's; the internalized text and the clock are a checkpoint's."""
    text, clock = layout.internalization_prompt, layout.clock
    return layout == replace(SMOLVLM2, internalization_prompt=text, clock=clock)


def _rendered(
    tokenizer: PreTrainedTokenizerFast,
    template: str,
    content: list[dict[str, str]],
    *,
    is_answered: bool,
) -> str | None:
    """What the template makes of one user turn; None where it cannot."""
    try:
        text: str = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=template,
            tokenize=False,
            add_generation_prompt=is_answered,
        )
    except (TemplateError, TypeError, ValueError):
        return None
    return text


def _agrees(theirs: str | None, ours: str, layout: PromptLayout) -> bool:
    """Their placeholder of a video stands for our frames, and for the line that opens them."""
    if theirs is None or _VIDEO not in theirs:
        return False
    opening, _, closing = theirs.partition(_VIDEO)
    # The processor writes two line breaks after the frames itself.
    return ours.startswith(opening) and layout.video_footer.format(text=_QUESTION) in (
        closing,
        f"\n\n{closing}",
    )
