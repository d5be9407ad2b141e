"""How right is an answer? Token-F1, its raw form and exact match, each from 0 to 1.

Text is read the way SQuAD's evaluation reads it (arXiv 1606.05250; empty answers as in 1806.03822):
lower case, punctuation removed, then the words "a", "an" and "the". Two things differ, both on
purpose. Unicode is normalised first (NFKC, then lower case) and every Unicode punctuation mark
counts as one. And a text of nothing but articles keeps them: "A" is a choice of a multiple-choice
question, and must not count as the empty answer.

Words are what white space parts: a sentence of a script without spaces is one word.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import punctuation

from video2lora_core.errors import UsageError

ARTICLES = frozenset({"a", "an", "the"})

NO_TYPE = "(no type)"
"""What questions without a type are shown under."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One answer's scores, each from 0 to 1; of several references the best counts, per score."""

    token_f1: float
    """Overlap of words: harmonic mean of precision and recall of the two multisets."""
    raw_token_f1: float
    """The same on the words as they stand: case, punctuation and articles count."""
    exact_match: float
    """1 where the normalised texts are equal, else 0; its mean is the accuracy."""


def score(answer: str, references: Sequence[str]) -> Scores:
    """Score an answer by all metrics.

    Raises:
        UsageError: there is no reference.
    """
    return Scores(
        token_f1=token_f1(answer, references),
        raw_token_f1=raw_token_f1(answer, references),
        exact_match=exact_match(answer, references),
    )


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the token-F1 of an answer and the reference that it meets best.

    Two empty texts agree fully, an empty and another not at all.

    Raises:
        UsageError: there is no reference.
    """
    return _best(_overlap, normalized_words(answer), map(normalized_words, _some(references)))


def raw_token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the token-F1 of the words as they stand, parted by white space.

    Raises:
        UsageError: there is no reference.
    """
    return _best(_overlap, answer.split(), (text.split() for text in _some(references)))


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1.0 where an answer equals a reference once both are normalised, else 0.0.

    Raises:
        UsageError: there is no reference.
    """
    return _best(_equality, normalized_words(answer), map(normalized_words, _some(references)))


def normalized_words(text: str) -> list[str]:
    """Return a text's words in lower case, without punctuation and articles."""
    lower = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    words = "".join(letter for letter in lower if not _is_punctuation(letter)).split()
    return [word for word in words if word not in ARTICLES] or words


def positions_by_type(types: Iterable[str | None]) -> dict[str, list[int]]:
    """Return which questions have which type, types in sorted order; None is `NO_TYPE`."""
    found: dict[str, list[int]] = {}
    for position, question_type in enumerate(types):
        found.setdefault(question_type or NO_TYPE, []).append(position)
    return dict(sorted(found.items()))


def _is_punctuation(letter: str) -> bool:
    # Unicode calls some of ASCII's marks symbols ($ + < = > ^ ` | ~); SQuAD removes those too.
    return letter in punctuation or unicodedata.category(letter).startswith("P")


def _overlap(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    shared = (Counter(answer) & Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference))


def _equality(answer: list[str], reference: list[str]) -> float:
    return float(answer == reference)


def _best(
    metric: Callable[[list[str], list[str]], float],
    answer: list[str],
    references: Iterable[list[str]],
) -> float:
    return max(metric(answer, reference) for reference in references)


def _some(references: Sequence[str]) -> Sequence[str]:
    if isinstance(references, str):
        raise UsageError(
            f"references: one text (found {references!r}), not several; give a list of texts"
        )
    if not references:
        raise UsageError(
            "references: none given (expected at least one); leave a question without a known"
            " answer out of the scores"
        )
    return references
