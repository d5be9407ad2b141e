"""The text around frames and questions, as data.

A `PromptLayout` holds the template strings of one VLM; nothing else in the core knows a chat
format. The layout and the internalization prompt belong to the hypernetwork's checkpoint: factors
made under other words come from other features. Choices:

* Templates are filled here and tokenised elsewhere with `add_special_tokens=False`, so that every
  special token of a prompt is visible in this file.
* Text from a user or a model never carries a special token into a prompt: `refuse_special_tokens`.
* Seconds are floored, as in transformers' `SmolVLMProcessor`.
"""

import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Literal, get_args

from num2words import num2words

from video2lora_core.errors import PromptError, UsageError

Clock = Literal["segment", "video"]
US_PER_S = 1_000_000

# Placeholders each template must hold, and those it may hold besides.
_PLACEHOLDERS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "video_header": (frozenset(), frozenset({"num_frames", "duration"})),
    "frame": (frozenset({"image"}), frozenset({"timestamp"})),
    "video_footer": (frozenset({"text"}), frozenset()),
    "query": (frozenset({"question"}), frozenset()),
    "target": (frozenset({"target"}), frozenset()),
}


def _placeholders(name: str, template: str) -> frozenset[str]:
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"prompt layout: {name} is not a template ({error}); correct it"
        ) from error
    return frozenset(field for _, field, _, _ in parsed if field is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptLayout:
    """Hold the template strings of one VLM."""

    video_header: str
    """Opens a user turn with a video; may use {num_frames} (in words) and {duration} (H:MM:SS)."""
    frame: str
    """Stands once per frame; needs {image}, may use {timestamp} (MM:SS)."""
    video_footer: str
    """Closes the user turn after the frames; needs {text}."""
    query: str
    """A whole text-only turn up to where the answer starts; needs {question}."""
    target: str
    """What follows the query in training; needs {target}. All of it is labelled."""
    generation: str = "Assistant:"
    """Stands between a video turn and its answer."""
    image_token: str = "<image>"
    """One visual token; repeated for every visual token of a frame."""
    end_token: str = "<end_of_utterance>"
    """Ends an answer."""
    internalization_prompt: str = "Internalize this video for later captioning."
    """The text of the turn that is internalized; may be empty."""
    clock: Clock = "segment"
    """Frame timestamps count from the start of the segment, or of the video."""

    def __post_init__(self) -> None:
        """Refuse a template with missing or unknown placeholders."""
        for name, (needed, allowed) in _PLACEHOLDERS.items():
            found = _placeholders(name, getattr(self, name))
            if not needed <= found <= needed | allowed:
                raise UsageError(
                    f"prompt layout: {name} has placeholders {sorted(found)} (expected "
                    f"{sorted(needed)}, allowed besides {sorted(allowed)}); correct the template"
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "PromptLayout":
        """Build a layout from parsed YAML or JSON; missing, unknown and non-text values raise."""
        known = {field.name for field in fields(cls)}
        needed = set(_PLACEHOLDERS)
        if not needed <= set(values) <= known:
            raise UsageError(
                f"prompt layout: missing {sorted(needed - set(values))}, unknown "
                f"{sorted(set(values) - known)}; give every template and no other key"
            )
        not_text = sorted(key for key, value in values.items() if not isinstance(value, str))
        if not_text:
            raise UsageError(f"prompt layout: {not_text} are not text; quote their values")
        if values.get("clock", "segment") not in get_args(Clock):
            raise UsageError(
                f"prompt layout: clock is {values['clock']!r} (expected one of {get_args(Clock)}); "
                "correct the layout"
            )
        return cls(**values)  # type: ignore[arg-type]  # checked just above

    def as_dict(self) -> dict[str, str]:
        """Return every field, as `from_mapping` takes them."""
        return asdict(self)

    def video_text(
        self,
        text: str,
        *,
        frame_times_us: Sequence[int],
        duration_us: int,
        start_us: int = 0,
        image_tokens_per_frame: int,
    ) -> str:
        """Write one user turn with frames and `text`, without an answer's opening.

        Args:
            text: what stands after the frames, already checked for special tokens.
            frame_times_us: one time per frame in the video's clock.
            duration_us: length of the span the frames were taken from.
            start_us: where that span starts in the video.
            image_tokens_per_frame: visual tokens of one frame.
        """
        origin_us = start_us if self.clock == "segment" else 0
        header = self.video_header.format(
            num_frames=num2words(len(frame_times_us)),
            duration=hours_minutes_seconds(start_us + duration_us - origin_us),
        )
        image = self.image_token * image_tokens_per_frame
        frames = [
            self.frame.format(timestamp=minutes_seconds(time_us - origin_us), image=image)
            for time_us in frame_times_us
        ]
        return "".join([header, *frames, self.video_footer.format(text=text)])

    def query_text(self, question: str) -> str:
        """Write a text-only turn that ends where the answer starts."""
        return self.query.format(question=question)

    def target_text(self, target: str) -> str:
        """Write what follows a query in training: the target and the end of the turn."""
        return self.target.format(target=target)


SMOLVLM2 = PromptLayout(
    video_header=(
        "<|im_start|>User: You are provided the following series of {num_frames} frames "
        "from a {duration} [H:MM:SS] video.\n"
    ),
    frame=(
        "\nFrame from {timestamp}:<fake_token_around_image><global-img>{image}"
        "<fake_token_around_image>"
    ),
    video_footer="\n\n{text}<end_of_utterance>\n",
    query="<|im_start|>User: {question}<end_of_utterance>\nAssistant:",
    target=" {target}<end_of_utterance>\n",
)
"""The chat format of SmolVLM2; checked against the strings of the released code's processor."""


def refuse_special_tokens(text: str, *, special: Collection[str], where: str) -> None:
    """Raise `PromptError` if `text` is empty or holds one of the `special` token strings."""
    if not text.strip():
        raise PromptError(f"{where}: the text is empty (expected words); write one")
    found = sorted(token for token in special if token and token in text)
    if found:
        raise PromptError(
            f"{where}: the text holds the special tokens {found} (expected plain text); remove them"
        )


def hours_minutes_seconds(time_us: int) -> str:
    """Write a duration as H:MM:SS, seconds floored."""
    return str(timedelta(seconds=time_us // US_PER_S))


def minutes_seconds(time_us: int) -> str:
    """Write a time as MM:SS, seconds floored; minutes go on past 59."""
    minutes, seconds = divmod(time_us // US_PER_S, 60)
    return f"{minutes:02d}:{seconds:02d}"
