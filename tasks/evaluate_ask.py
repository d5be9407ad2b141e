"""Ask questions of watched videos, from adapters or in context, and score what is said."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tasks.evaluate_corpus import Watched
from tasks.evaluate_figures import Score
from tasks.models import LoadedModel
from tasks.question_set import SetQuestion
from video2lora_core.adapter import Adapter
from video2lora_core.answer import Answer, answer, answer_in_context
from video2lora_core.compose import concat, with_bias
from video2lora_core.errors import PromptError
from video2lora_core.metrics import exact_match, raw_token_f1, token_f1
from video2lora_core.routing import NUM_COMPOSED, answer_routed

logger = logging.getLogger(__name__)

METRICS = {"token_f1": token_f1, "raw_token_f1": raw_token_f1, "exact_match": exact_match}
ROWS_PER_BATCH = 64

Compose = Callable[[Sequence[Adapter]], Adapter]
"""From the adapters of the segments asked about to what is injected, the bias aside."""
Ask = Callable[[Watched, Sequence[int], list[str]], list[Answer]]
"""From a video, the positions of its segments and questions to answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """How questions are put to a model."""

    model: LoadedModel
    max_new_tokens: int

    def from_adapters(self, compose: Compose = concat) -> Ask:
        """Ask with the segments' adapters composed; by default their sum."""

        def ask(watched: Watched, positions: Sequence[int], texts: list[str]) -> list[Answer]:
            composed = compose([watched.adapters[place] for place in positions])
            injected = with_bias(composed, self.model.bias())
            return answer(
                self.model.vlm, texts, adapters=injected, max_new_tokens=self.max_new_tokens
            )

        return ask

    def routed(self, watched: Watched, positions: Sequence[int], texts: list[str]) -> list[Answer]:
        """Ask as the product does: of many segments the most relevant few are summed."""
        if len(positions) <= NUM_COMPOSED:
            return self.from_adapters()(watched, positions, texts)
        chosen = [watched.adapters[place] for place in positions]
        return [
            answer_routed(
                self.model.vlm,
                text,
                chosen,
                bias=self.model.bias(),
                max_new_tokens=self.max_new_tokens,
            ).answer
            for text in texts
        ]

    def in_context(
        self, watched: Watched, positions: Sequence[int], texts: list[str]
    ) -> list[Answer]:
        """Ask with the frames in the prompt; nothing is said where they do not fit."""
        try:
            return answer_in_context(
                self.model.vlm,
                watched.pixels(positions),
                watched.times_us(positions),
                texts,
                duration_us=watched.video.duration_us,
                max_new_tokens=self.max_new_tokens,
            )
        except PromptError as error:
            logger.warning("video %s, in context: %s", watched.video.video_id[:12], error)
            return []


def scores_of(watched: Watched, ask: Ask) -> list[Score]:
    """Ask a video all its questions that have a reference, and score the answers."""
    found = []
    for positions, questions in _groups(watched):
        for start in range(0, len(questions), ROWS_PER_BATCH):
            batch = questions[start : start + ROWS_PER_BATCH]
            said = ask(watched, positions, [question.question for question in batch])
            # Where the prompt does not fit, nothing is said and nothing is scored.
            found += [
                score_of(question, watched.video.video_id, given.text)
                for question, given in zip(batch, said, strict=False)
            ]
    return found


def score_of(question: SetQuestion, video_id: str, text: str) -> Score:
    """Score one answer by every metric; without references there is no value."""
    references = question.references
    values = {name: metric(text, references) for name, metric in METRICS.items() if references}
    return Score(
        question_id=question.question_id,
        video_id=video_id,
        question_type=question.question_type,
        values=values,
    )


def _groups(watched: Watched) -> Iterator[tuple[tuple[int, ...], list[SetQuestion]]]:
    """Group a video's questions by the segments that they are about."""
    groups: dict[tuple[int, ...], list[SetQuestion]] = {}
    for question in watched.video.questions:
        if question.references:
            groups.setdefault(watched.positions(question), []).append(question)
    yield from groups.items()
