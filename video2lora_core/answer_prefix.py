"""A video read once, asked many times: the KV cache of the video's part of an in-context prompt.

The fair rival of an adapter: the first token comes as soon, but what is kept of a video is its
keys and values (docs/benchmarks.md says how many bytes). The prefix ends with the last visual
token: what follows it may tokenise differently with every question, what stands before never does.
Answering copies the prefix into the batch's own cache, so the prefix itself never changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from video2lora_core.answer_decoding import (
    Answer,
    Inputs,
    check_prompts,
    clock,
    generate,
    new_cache,
    pad_left,
    to_answers,
)
from video2lora_core.encoder import embed, refuse_adapted
from video2lora_core.errors import ModelMismatchError, PromptError
from video2lora_core.vlm import Vlm, in_context_ids, video_prefix_ids


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VideoPrefix:
    """Keys and values of the video's part of an in-context prompt."""

    ids: tuple[int, ...]
    """The tokens read, from the first to the last visual one."""
    times_us: tuple[int, ...]
    """Each frame's time in the video."""
    duration_us: int
    """Length of the video."""
    weights_sha256: str
    """The model that read it."""
    layers: tuple[
        tuple[Float[Tensor, "1 kv_head token head_dim"], Float[Tensor, "1 kv_head token head_dim"]],
        ...,
    ]
    """Keys and values of each decoder block."""

    @property
    def size_bytes(self) -> int:
        """Count the bytes of all keys and values."""
        return sum(tensor.nbytes for pair in self.layers for tensor in pair)


def read_video(
    vlm: Vlm,
    pixels: UInt8[np.ndarray, "frame channel height width"],
    times_us: Sequence[int],
    *,
    duration_us: int,
) -> VideoPrefix:
    """Let the model read a video's frames, to be asked afterwards.

    Args:
        vlm: the answer model; no adapter is injected.
        pixels: the prepared frames of all segments, in order.
        times_us: each frame's time in the video.
        duration_us: length of the video.

    Raises:
        PromptError: the prompt is too long, or frames and times do not match.
        UsageError: an adapter is injected.
    """
    refuse_adapted(vlm)
    ids = video_prefix_ids(vlm, times_us, duration_us)
    if not ids:
        raise PromptError(
            f"read_video: {len(times_us)} frames and no visual token (expected at least one); give "
            "the video's frames"
        )
    check_prompts(vlm, [ids], 1)
    with torch.no_grad():
        embeddings = embed(vlm, pixels=torch.tensor(pixels)[None], input_ids=torch.tensor([ids]))
        output = vlm.model.model.text_model(inputs_embeds=embeddings, use_cache=True)
    return VideoPrefix(
        ids=tuple(ids),
        times_us=tuple(times_us),
        duration_us=duration_us,
        weights_sha256=vlm.weights_sha256,
        layers=tuple((layer.keys, layer.values) for layer in output.past_key_values.layers),
    )


def answer_from_prefix(
    vlm: Vlm, prefix: VideoPrefix, questions: Sequence[str], *, max_new_tokens: int = 32
) -> list[Answer]:
    """Answer questions about a video that was read before, as `answer_in_context` would.

    Args:
        vlm: the model that read the video; no adapter is injected.
        prefix: what `read_video` returned.
        questions: one batch about this video.
        max_new_tokens: most tokens generated for an answer.

    Raises:
        PromptError: a question is empty or holds special tokens, or the prompt is too long.
        ModelMismatchError: the prefix was read by another model.
        UsageError: an adapter is injected.
    """
    refuse_adapted(vlm)
    prompts = [
        in_context_ids(vlm, prefix.times_us, prefix.duration_us, question) for question in questions
    ]
    check_prompts(vlm, prompts, max_new_tokens)
    _check_prefix(vlm, prefix, prompts)
    num_cached = len(prefix.ids)
    started_s = clock(vlm)
    with torch.no_grad():
        asked, attention_mask = pad_left(
            vlm, [prompt[num_cached:] for prompt in prompts], num_cached_tokens=num_cached
        )
        inputs = Inputs(
            embeddings=vlm.model.get_input_embeddings()(asked),
            attention_mask=attention_mask,
            cache=new_cache(prefix.layers, num_rows=len(prompts)),
        )
        made = generate(vlm, inputs, max_new_tokens=max_new_tokens, keep_rows=lambda _: None)
    return to_answers(vlm, prompts, made, started_s=started_s)


def _check_prefix(vlm: Vlm, prefix: VideoPrefix, prompts: Sequence[Sequence[int]]) -> None:
    if prefix.weights_sha256 != vlm.weights_sha256:
        raise ModelMismatchError(
            f"answer_from_prefix: the video was read by weights {prefix.weights_sha256[:12]} "
            f"(expected {vlm.weights_sha256[:12]}, those of {vlm.name}); read it again"
        )
    for prompt in prompts:
        if tuple(prompt[: len(prefix.ids)]) != prefix.ids:
            raise PromptError(
                "answer_from_prefix: a prompt does not begin with the tokens that were read "
                f"(expected the same {len(prefix.ids)}); read the video again with this model's "
                "prompt layout"
            )
