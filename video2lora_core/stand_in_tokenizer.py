"""A stand-in for SmolVLM2's tokenizer, where only its architecture is at hand.

It has the real one's vocabulary size and the real ids of every special token, so that prompts,
image tokens and ends of turns work as with the real one. Its words are not the real ones: the words
of the prompts are one token each, everything else is spelt in bytes. Answers made with it mean
nothing, which is what answers of random weights mean anyway.
"""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 49280
IMAGE_TOKEN_ID = 49190
_BASE_SIZE = 49152  # words; what is added by name comes after
_NUM_TILES = 6
_NUM_RESERVED = 88
# SmolVLM2's special tokens, by id (its public tokenizer files).
_FIRST = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
_ADDED = (
    "<global-img>",
    *(f"<row_{y}_col_{x}>" for y in range(1, _NUM_TILES + 1) for x in range(1, _NUM_TILES + 1)),
    "<fake_token_around_image>",
    "<image>",
    *(f"<|reserved_special_token_{index}|>" for index in range(_NUM_RESERVED)),
    "<end_of_utterance>",
)
_WORDS = (
    "You are provided the following series of frames from a video Frame from User Assistant "
    "Internalize this video for later captioning summarization and question answering "
    "one two three four five six seven eight nine ten eleven twelve sixteen H MM SS"
)


def stand_in_tokenizer() -> Tokenizer:
    """Build the stand-in; the same every time."""
    vocab = dict(_FIRST)
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(character, len(vocab))
    for word in _WORDS.split():
        vocab.setdefault(word, len(vocab))
        vocab.setdefault(f"\u0120{word}", len(vocab))  # how byte-level vocabularies write a space
    while len(vocab) < _BASE_SIZE:
        vocab[f"<stand-in-{len(vocab)}>"] = len(vocab)
    # ignore_merges: a whole word of the vocabulary is taken as it is, without learned merges.
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (*_FIRST, *_ADDED)]
    tokenizer.add_special_tokens(special)
    assert tokenizer.token_to_id("<image>") == IMAGE_TOKEN_ID
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    return tokenizer
