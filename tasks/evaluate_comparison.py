"""The comparison of modes: accuracy per question type, and how far adapters are from context.

Differences are taken question by question, over questions that both modes answered, and intervals
come from resampling videos (`video2lora_core/bootstrap.py`). A verdict is computed at the margin of
its metric, and only there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.evaluate_schema import EvaluateConfig
from tasks.evaluate_ask import METRICS, score_of
from tasks.evaluate_figures import Figure, Score, difference_figure, mean_figure
from tasks.question_set import SetQuestion

PART = "comparison"
CONTROL = "another video's adapter"
PAIR = ("adapter", "in-context")


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One answer of a mode."""

    question_id: str
    video_id: str
    question: str
    references: tuple[str, ...]
    question_type: str | None
    text: str
    num_prompt_tokens: int
    num_visual_tokens: int

    def score(self) -> Score:
        """Score the answer against its references."""
        asked = SetQuestion(
            question_id=self.question_id,
            video=self.video_id,
            question=self.question,
            references=self.references,
            question_type=self.question_type,
        )
        return score_of(asked, self.video_id, self.text)


def compare(said: Mapping[str, Sequence[Said]], settings: EvaluateConfig) -> list[Figure]:
    """Return every figure of the comparison; `said` has the answers of each condition."""
    scores = {name: [given.score() for given in listed] for name, listed in said.items()}
    types = sorted(
        {s.question_type for listed in scores.values() for s in listed if s.question_type}
    )
    figures: list[Figure | None] = []
    for kind in [None, *types]:
        of_kind = {name: _of_type(listed, kind) for name, listed in scores.items()}
        for metric in METRICS:
            figures += _means(of_kind, metric, kind, settings)
            figures.append(_difference(of_kind, metric, kind, settings))
    found = [figure for figure in figures if figure is not None]
    return found + _sizes(said)


def _of_type(scores: Sequence[Score], kind: str | None) -> list[Score]:
    return [score for score in scores if kind is None or score.question_type == kind]


def _means(
    scores: Mapping[str, Sequence[Score]], metric: str, kind: str | None, settings: EvaluateConfig
) -> list[Figure | None]:
    return [
        mean_figure(
            listed,
            part=PART,
            condition=name,
            metric=metric,
            resamples=settings.num_resamples,
            question_type=kind,
        )
        for name, listed in scores.items()
    ]


def _difference(
    scores: Mapping[str, Sequence[Score]], metric: str, kind: str | None, settings: EvaluateConfig
) -> Figure | None:
    if not all(name in scores for name in PAIR):
        return None
    return difference_figure(
        scores[PAIR[0]],
        scores[PAIR[1]],
        part=PART,
        names=PAIR,
        metric=metric,
        margin=settings.margins.get(metric),
        resamples=settings.num_resamples,
        question_type=kind,
    )


def _sizes(said: Mapping[str, Sequence[Said]]) -> list[Figure]:
    """Return the mean number of tokens in a prompt, and of visual ones among them."""
    return [
        Figure(
            part=PART,
            condition=name,
            metric=metric,
            value=sum(getattr(given, metric) for given in listed) / len(listed),
            num_questions=len(listed),
            num_videos=len({given.video_id for given in listed}),
        )
        for name, listed in said.items()
        if listed
        for metric in ("num_prompt_tokens", "num_visual_tokens")
    ]
