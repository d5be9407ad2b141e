"""The embedded default's tokenizer: one token per word of the shapes world.

A model of a million parameters cannot spend them on subwords. Text is lower-cased, `color` is read
as `colour`, and a word outside the vocabulary becomes `<unk>`. The chat markers are special
tokens, so a question cannot contain them.
"""

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from video2lora_core.shapes_world.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES

PAD, UNKNOWN = "<pad>", "<unk>"
START, END = "<|im_start|>", "<end_of_utterance>"
IMAGE, IMAGE_END = "<image>", "<fake_token_around_image>"
SPECIAL_TOKENS = (PAD, UNKNOWN, START, END, IMAGE, IMAGE_END, "User:", "Assistant:")

_WORDS = [
    "a",
    "and",
    "any",
    "appears",
    "are",
    "background",
    "blinks",
    "colour",
    "describe",
    "does",
    "first",
    "how",
    "in",
    "is",
    "it",
    "last",
    "left",
    "many",
    "move",
    "moves",
    "no",
    "object",
    "objects",
    "of",
    "on",
    "one",
    "red",
    "right",
    "shape",
    "stays",
    "still",
    "the",
    "there",
    "three",
    "two",
    "up",
    "video",
    "what",
    "which",
    "yes",
    "?",
    ".",
    ",",
]
_MULTIPLE = 16  # a vocabulary padded to a multiple of 16 keeps the matrix kernels happy


def vocabulary() -> dict[str, int]:
    """Map each token to its id: special tokens first, then the words in alphabetical order."""
    words = {*_WORDS, *SHAPES, *COLOURS, *BACKGROUNDS, *MOTIONS}
    tokens = [*SPECIAL_TOKENS, *sorted(words)]
    return {token: index for index, token in enumerate(tokens)}


def vocabulary_size() -> int:
    """Return the number of embedding rows: the vocabulary, padded."""
    return -(-len(vocabulary()) // _MULTIPLE) * _MULTIPLE


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer in memory; `save_pretrained` writes it to a directory."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("color", "colour")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
