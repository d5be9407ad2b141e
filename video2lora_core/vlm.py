"""The frozen VLM: its weights, tokenizer, prompt layout and pixels as one value.

Encoder and answer model are the same object. Choices:

* No processor class is used: transformers' video processor needs torchvision.
* The tokenizer is built from `tokenizer.json` alone, so that `tokenizer_sha256` covers it.
* A weight that is missing or does not fit is an error; transformers would make it random.
* Parameters are frozen on load; nothing but `inject.adapted` changes how the model computes.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMForConditionalGeneration

from video2lora_core.chat_template import check_chat_template
from video2lora_core.errors import ModelMismatchError, PromptError, UsageError
from video2lora_core.model_files import files_sha256, find_files, require_files
from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import SMOLVLM2, PromptLayout, refuse_special_tokens
from video2lora_core.vision_square import image_tokens, side_fault

# SmolVLM2's processors bring the longest edge to 384 px before they square the frame.
_LONGEST_EDGE_PX = 384


@dataclass(frozen=True, kw_only=True, slots=True)
class Vlm:
    """Hold a loaded VLM and the hashes that identify it."""

    model: SmolVLMForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    layout: PromptLayout
    pixel_spec: PixelSpec
    image_tokens_per_frame: int
    weights_sha256: str
    """Over the bytes of the weight files, in the order of their names."""
    tokenizer_sha256: str
    """Over the bytes of tokenizer.json."""
    processor_sha256: str
    """Over the canonical JSON of pixel spec and prompt layout."""
    name: str
    """Hub id, or the name of the local directory; provenance only."""
    revision: str | None
    """Commit on the hub; None for a local directory."""

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Return the type the model computes in."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def num_layers(self) -> int:
        """Count the decoder blocks."""
        return int(self.model.config.text_config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Return the width of the decoder's hidden states."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def image_token_id(self) -> int:
        """Return the id that stands for one visual token."""
        return int(self.model.config.image_token_id)

    @property
    def end_token_id(self) -> int:
        """Return the id that ends an answer."""
        return int(self.tokenizer.convert_tokens_to_ids(self.layout.end_token))

    @property
    def max_tokens(self) -> int:
        """Return how many positions the decoder has."""
        return int(self.model.config.text_config.max_position_embeddings)


def load_vlm(
    source: str | Path,
    *,
    revision: str | None = None,
    layout: PromptLayout = SMOLVLM2,
    pixel_spec: PixelSpec | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attention: str = "sdpa",
) -> Vlm:
    """Load a SmolVLM from a directory or the hub, frozen.

    Args:
        source: directory with config.json, tokenizer.json and safetensors weights, or a hub id.
        revision: branch, tag or commit on the hub; refused with a directory.
        layout: the prompt templates the model was trained with.
        pixel_spec: how frames are resized; SmolVLM2's for the model's image size if None. A smaller
            square will do where the tower takes it (vision_square.py).
        dtype: type the model computes in.
        device: where the weights go.
        attention: attention implementation of transformers ("sdpa", "eager", ...).

    Raises:
        UsageError: the weights are not there, unreadable, or are not a SmolVLM's.
        ModelMismatchError: tokenizer, layout, pixels and weights do not fit each other.
    """
    directory, commit = find_files(source, revision)
    weights = require_files(directory, source)
    model = _load_model(directory, dtype=dtype, attention=attention).to(device)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    check_chat_template(directory, tokenizer, layout)
    return make_vlm(
        model,
        tokenizer,
        layout=layout,
        pixel_spec=pixel_spec or _smolvlm2_pixels(model.config),
        weights_sha256=files_sha256(weights),
        tokenizer_sha256=files_sha256([directory / "tokenizer.json"]),
        name=directory.resolve().name if commit is None else str(source),
        revision=commit,
    )


def make_vlm(
    model: SmolVLMForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    *,
    layout: PromptLayout,
    pixel_spec: PixelSpec,
    weights_sha256: str,
    tokenizer_sha256: str,
    name: str,
    revision: str | None,
) -> Vlm:
    """Put a VLM's parts together.

    Raises:
        ModelMismatchError: they do not fit each other.
    """
    _check_fit(model.config, tokenizer, layout, pixel_spec)
    return Vlm(
        model=model,
        tokenizer=tokenizer,
        layout=layout,
        pixel_spec=pixel_spec,
        image_tokens_per_frame=image_tokens(model.config, pixel_spec.size_px),
        weights_sha256=weights_sha256,
        tokenizer_sha256=tokenizer_sha256,
        processor_sha256=processor_sha256(pixel_spec, layout),
        name=name,
        revision=revision,
    )


def processor_sha256(pixel_spec: PixelSpec, layout: PromptLayout) -> str:
    """Hash what turns frames and text into model inputs, as canonical JSON."""
    content = {"layout": layout.as_dict(), "pixels": asdict(pixel_spec)}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def internalization_ids(
    vlm: Vlm, frame_times_us: Sequence[int], duration_us: int, *, start_us: int = 0
) -> list[int]:
    """Tokenise the prompt that features are taken from.

    `frame_times_us` are in the video's clock; `start_us` and `duration_us` are the segment's.
    """
    return _video_ids(
        vlm,
        vlm.layout.internalization_prompt,
        frame_times_us=frame_times_us,
        duration_us=duration_us,
        start_us=start_us,
    )


def query_ids(vlm: Vlm, question: str) -> list[int]:
    """Tokenise a text-only prompt for `question`; `PromptError` if it is empty or not plain."""
    _refuse(vlm, question, where="question")
    return _encode(vlm, vlm.layout.query_text(question))


def in_context_ids(
    vlm: Vlm, frame_times_us: Sequence[int], duration_us: int, question: str
) -> list[int]:
    """Tokenise a prompt with a whole video's frames and `question`."""
    _refuse(vlm, question, where="question")
    turn = _video_ids(vlm, question, frame_times_us=frame_times_us, duration_us=duration_us)
    return turn + _encode(vlm, vlm.layout.generation)


def video_prefix_ids(vlm: Vlm, frame_times_us: Sequence[int], duration_us: int) -> list[int]:
    """Tokenise what every in-context prompt about a video begins with: up to its last frame.

    It ends with the last visual token. Text behind that may join with a question's first token.
    """
    ids = _video_ids(vlm, "", frame_times_us=frame_times_us, duration_us=duration_us)
    while ids and ids[-1] != vlm.image_token_id:
        ids.pop()
    return ids


def target_ids(vlm: Vlm, target: str) -> list[int]:
    """Tokenise what follows a query in training; every id of it is a label."""
    _refuse(vlm, target, where="target")
    return _encode(vlm, vlm.layout.target_text(target))


def _video_ids(
    vlm: Vlm, text: str, *, frame_times_us: Sequence[int], duration_us: int, start_us: int = 0
) -> list[int]:
    prompt = vlm.layout.video_text(
        text,
        frame_times_us=frame_times_us,
        duration_us=duration_us,
        start_us=start_us,
        image_tokens_per_frame=vlm.image_tokens_per_frame,
    )
    return _encode(vlm, prompt)


def _encode(vlm: Vlm, text: str) -> list[int]:
    return list(vlm.tokenizer.encode(text, add_special_tokens=False))


def _refuse(vlm: Vlm, text: str, *, where: str) -> None:
    special = vlm.tokenizer.get_added_vocab()
    refuse_special_tokens(text, special=special, where=where)
    # The tokenizer may normalise text into a special token that the string did not hold.
    unknown = vlm.tokenizer.convert_tokens_to_ids("<unk>") if "<unk>" in special else None
    hidden = set(special.values()).intersection(_encode(vlm, text)) - {unknown}
    if hidden:
        names = vlm.tokenizer.convert_ids_to_tokens(sorted(hidden))
        raise PromptError(
            f"{where}: the text becomes the special tokens {names} (expected plain text); "
            "write it differently"
        )


def _load_model(
    directory: Path, *, dtype: torch.dtype, attention: str
) -> SmolVLMForConditionalGeneration:
    kind = json.loads((directory / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind != "smolvlm":
        raise UsageError(
            f"vlm: {directory} holds a model of type {kind!r} (expected 'smolvlm'); choose a "
            "SmolVLM2 model"
        )
    try:
        model, report = SmolVLMForConditionalGeneration.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # listed in the report, and refused below by name
        )
    except SafetensorError as error:
        raise UsageError(
            f"vlm: the weights in {directory} cannot be read ({error}); fetch them again"
        ) from error
    # Tensors that the model has no place for change nothing; transformers logs them.
    faults = {k: sorted(map(str, v)) for k, v in report.items() if v and k != "unexpected_keys"}
    if faults:
        raise ModelMismatchError(
            f"vlm: weights and config.json in {directory} do not fit: {_shorten(faults)} (expected "
            "every tensor, of its shape); fetch the model again"
        )
    model.requires_grad_(requires_grad=False)
    return model.eval()


def _shorten(faults: dict[str, list[str]]) -> str:
    return "; ".join(f"{key} {len(names)}, e.g. {names[0]}" for key, names in faults.items())


def _smolvlm2_pixels(config: SmolVLMConfig) -> PixelSpec:
    size_px = int(config.vision_config.image_size)
    return PixelSpec(
        longest_edge_px=min(_LONGEST_EDGE_PX, size_px), size_px=size_px, resize="torch"
    )


def _check_fit(
    config: SmolVLMConfig,
    tokenizer: PreTrainedTokenizerFast,
    layout: PromptLayout,
    pixel_spec: PixelSpec,
) -> None:
    vocab = tokenizer.get_vocab()
    faults = []
    if vocab.get(layout.image_token) != config.image_token_id:
        faults.append(
            f"{layout.image_token} has id {vocab.get(layout.image_token)} in tokenizer.json "
            f"(expected {config.image_token_id}, the config's image_token_id)"
        )
    if layout.end_token not in vocab:
        faults.append(f"{layout.end_token} is not in tokenizer.json")
    if max(vocab.values()) >= config.text_config.vocab_size:
        faults.append(
            f"the largest token id is {max(vocab.values())} (expected below "
            f"{config.text_config.vocab_size}, the model's vocabulary)"
        )
    if (fault := side_fault(config, pixel_spec.size_px)) is not None:
        faults.append(fault)
    if faults:
        raise ModelMismatchError(
            f"vlm: {'; '.join(faults)}; use tokenizer, prompt layout and pixel spec of this model"
        )
