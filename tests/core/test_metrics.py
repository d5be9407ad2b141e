"""Token-F1, its raw form and exact match: properties, an oracle for ASCII, hand-worked cases."""

import re
import string
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.errors import UsageError
from video2lora_core.metrics import (
    NO_TYPE,
    exact_match,
    normalized_words,
    positions_by_type,
    raw_token_f1,
    score,
    token_f1,
)

METRICS = (token_f1, raw_token_f1, exact_match)
TEXTS = st.text(max_size=40)
ASCII = st.text(alphabet=string.printable, max_size=40)
WORDS = st.lists(
    st.sampled_from(["dog", "Dog", "the", "runs", "a", "café", "東京", "!"]), max_size=8
)


def squad_words(text: str) -> list[str]:
    """The public evaluation script's rule, in its own order of steps."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


@given(ASCII)
def test_ascii_text_is_read_as_squad_reads_it_unless_only_articles_are_there(text: str) -> None:
    expected = squad_words(text)
    assert normalized_words(text) == expected or not expected


@pytest.mark.parametrize("metric", METRICS)
@given(answer=TEXTS, reference=TEXTS)
def test_answer_and_reference_may_change_places(metric: Any, answer: str, reference: str) -> None:
    assert metric(answer, [reference]) == metric(reference, [answer])


@pytest.mark.parametrize("metric", METRICS)
@given(answer=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=4))
def test_scores_lie_between_0_and_1_and_the_best_reference_counts(
    metric: Any, answer: str, references: list[str]
) -> None:
    best = metric(answer, references)
    assert 0.0 <= best <= 1.0
    assert best == max(metric(answer, [reference]) for reference in references)


@pytest.mark.parametrize("metric", METRICS)
@given(TEXTS)
def test_a_text_agrees_fully_with_itself(metric: Any, text: str) -> None:
    assert metric(text, [text]) == 1.0


@given(WORDS, st.randoms(use_true_random=False))
def test_the_order_of_words_matters_to_exact_match_alone(words: list[str], random: Any) -> None:
    shuffled = list(words)
    random.shuffle(shuffled)
    assert token_f1(" ".join(shuffled), [" ".join(words)]) == 1.0
    assert raw_token_f1(" ".join(shuffled), [" ".join(words)]) == 1.0


@given(answer=WORDS, reference=WORDS)
def test_full_token_f1_means_equal_multisets(answer: list[str], reference: list[str]) -> None:
    sides = [Counter(normalized_words(" ".join(words))) for words in (answer, reference)]
    is_full = token_f1(" ".join(answer), [" ".join(reference)]) == 1.0
    assert is_full == (sides[0] == sides[1])


@given(TEXTS)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalized_words(text)
    assert normalized_words(" ".join(once)) == once


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "raw", "exact"),
    [
        # {red, ball} of {red, ball, rolls} and 2 words: 2 * 2 / (2 + 3); raw, of 3 and 4.
        ("The red ball", "A red ball rolls.", 0.8, 4 / 7, 0.0),
        # A word counts as often as both sides have it: 2 * 1 / (3 + 1).
        ("dog dog dog", "dog", 0.5, 0.5, 0.0),
        ("It's BLUE!", "its blue", 1.0, 0.0, 1.0),
        ("", "", 1.0, 1.0, 1.0),
        ("", "dog", 0.0, 0.0, 0.0),
        ("dog", "", 0.0, 0.0, 0.0),
        ("!?", "", 1.0, 0.0, 1.0),
        ("cat", "dog", 0.0, 0.0, 0.0),
        # Unicode: composed and decomposed, full width, typographic quotes, sharp case.
        ("Cafe\u0301", "caf\u00e9", 1.0, 0.0, 1.0),
        ("\uff12 dogs", "2 dogs", 1.0, 0.5, 1.0),
        ("\u201cred\u201d \u2014 ball", "red ball", 1.0, 0.4, 1.0),
        ("\u00c5NGSTR\u00d6M", "\u00e5ngstr\u00f6m", 1.0, 0.0, 1.0),
    ],
)
def test_hand_worked_cases(
    answer: str, reference: str, f1: float, raw: float, exact: float
) -> None:
    scores = score(answer, [reference])
    assert scores.token_f1 == pytest.approx(f1)
    assert scores.raw_token_f1 == pytest.approx(raw)
    assert scores.exact_match == exact


@pytest.mark.parametrize("empty", ["", " ", ".", "B", "the"])
def test_the_choice_a_is_no_empty_answer(empty: str) -> None:
    assert exact_match("A.", ["A"]) == 1.0
    assert exact_match(empty, ["A"]) == 0.0
    assert token_f1(empty, ["A"]) == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_a_question_without_reference_is_refused_and_so_is_a_bare_text(metric: Any) -> None:
    with pytest.raises(UsageError, match="expected at least one"):
        metric("dog", [])
    with pytest.raises(UsageError, match="give a list"):
        metric("dog", "dog")


def test_types_are_sorted_and_keep_the_order_of_their_questions() -> None:
    assert positions_by_type(["why", None, "how", "why", ""]) == {
        NO_TYPE: [1, 4],
        "how": [2],
        "why": [0, 3],
    }
    assert positions_by_type([]) == {}
