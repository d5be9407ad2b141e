"""A SmolVLM of 160 thousand random parameters and a word-level tokenizer, built in milliseconds."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

from video2lora_core.pixels import PixelSpec
from video2lora_core.prompts import PromptLayout
from video2lora_core.vlm import Vlm, load_vlm

SPECIAL = (
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<global-img>",
    "<image>",
)
VOCABULARY = (
    "User Assistant Internalize this video for later captioning What is the colour of ball bar "
    "How many objects are there red green blue yellow one two three yes no Frame from "
    "0 1 2 3 4 5 6 7 8 9 : . ? -"
)
COMPACT = PromptLayout(
    video_header="<|im_start|>User:",
    frame="{image}<fake_token_around_image>",
    video_footer="{text}<end_of_utterance>\n",
    query="<|im_start|>User: {question}<end_of_utterance>\nAssistant:",
    target=" {target}<end_of_utterance>\n",
)
TIMED = PromptLayout(
    video_header="<|im_start|>User: {num_frames} frames {duration}",
    frame="Frame from {timestamp}:{image}<fake_token_around_image>",
    video_footer="{text}<end_of_utterance>\n",
    query=COMPACT.query,
    target=COMPACT.target,
    clock="video",
)
PIXELS = PixelSpec(longest_edge_px=32, size_px=32, resize="torch")
NUM_LAYERS, D_MODEL, D_FF = 4, 64, 96


def build_tokenizer() -> Tokenizer:
    words = dict.fromkeys([*SPECIAL, *VOCABULARY.split()])
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def tiny_config(*, vocab_size: int, image_token_id: int) -> SmolVLMConfig:
    return SmolVLMConfig(
        image_token_id=image_token_id,
        scale_factor=2,
        tie_word_embeddings=False,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": PIXELS.size_px,
            "patch_size": 8,
            "initializer_range": 0.2,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": D_MODEL,
            "intermediate_size": D_FF,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "tie_word_embeddings": False,
        },
    )


def write_tiny_vlm(directory: Path, *, seed: int = 0) -> Path:
    """Write config.json, model.safetensors and tokenizer.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    config = tiny_config(
        vocab_size=tokenizer.get_vocab_size(), image_token_id=tokenizer.token_to_id("<image>")
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmolVLMForConditionalGeneration(config)
    model.save_pretrained(directory)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def load_tiny_vlm(directory: Path, *, layout: PromptLayout = COMPACT) -> Vlm:
    return load_vlm(write_tiny_vlm(directory), layout=layout, pixel_spec=PIXELS)
