"""Which of a video's segments answer its questions: weighed for many questions at a time.

A question is put to every segment alone (video2lora_core/routing.py), which is far more work than
answering it. So questions share batches here too, those about the same video next to each other:
its segments are then read once. Where nothing has to be chosen nothing is weighed.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from configs.answer_schema import AnswerConfig
from storage.errors import ObjectError
from storage.schemas import Row
from tasks.adapter_cache import AdapterCache
from tasks.answer_batches import halving
from tasks.meet_video import Reject
from tasks.models import LoadedModel
from video2lora_core.adapter import Adapter
from video2lora_core.errors import Reason
from video2lora_core.routing import NUM_COMPOSED, ROWS_PER_BATCH, most_relevant, relevances


@dataclass(frozen=True, kw_only=True, slots=True)
class Met:
    """A question that may be asked, and its video's adapters."""

    row: Row
    num_tokens: int
    picked: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A question with the segments that are to answer it."""

    row: Row
    num_tokens: int
    chosen: tuple[Row, ...]
    load_s: float
    """Reading the segments that were weighed against each other."""
    routing_s: float
    """Weighing them."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Name what is injected."""
        return _ids(self.chosen)

    @property
    def size(self) -> tuple[int, int]:
        """Tokens of the prompt and rank of what is injected: what a batch is planned by."""
        return self.num_tokens, sum(adapter["rank"] for adapter in self.chosen)


class Router:
    """Chooses the segments that answer."""

    def __init__(self, model: LoadedModel, config: AnswerConfig, *, cache: AdapterCache) -> None:
        """Weigh with `model` what `cache` reads."""
        self._model = model
        self._config = config
        self._cache = cache

    def choose(self, questions: Sequence[Met]) -> Mapping[str, Asked | Reject]:
        """Return, by question_id, what answers each question, or why nothing does."""
        made: dict[str, Asked | Reject] = {}
        by_video: dict[tuple[str, ...], list[Met]] = {}
        for met in questions:
            if self._num_chosen(met) >= len(met.picked):
                made[met.row["question_id"]] = _asked(met, met.picked)
            else:
                by_video.setdefault(_ids(met.picked), []).append(met)
        for batch in _batches([met for group in by_video.values() for met in group]):
            made |= self._weigh(batch)
        return made

    def _num_chosen(self, met: Met) -> int:
        limit = {"compose": len(met.picked), "route": 1, "route-compose": NUM_COMPOSED}
        return limit[self._config.strategy]

    def _weigh(self, batch: Sequence[Met]) -> Mapping[str, Asked | Reject]:
        """Weigh the segments of a batch of questions; one whose segments cannot be read is out."""
        made: dict[str, Asked | Reject] = {}
        ready: list[tuple[Met, list[Adapter], float]] = []
        for met in batch:
            before_s = self._cache.load_s
            try:
                segments = self._cache.segments(_ids(met.picked))
            except ObjectError as error:
                reject = Reject(reason=Reason.ADAPTER_MISSING, detail=str(error))
                made[met.row["question_id"]] = reject
            else:
                ready.append((met, segments, self._cache.load_s - before_s))
        started = time.perf_counter()
        weighed = halving(self._relevances, ready, device=self._model.vlm.device) if ready else []
        routing_s = (time.perf_counter() - started) / max(1, len(ready))
        for (met, _, load_s), found in zip(ready, weighed, strict=True):
            if isinstance(found, Reject):
                made[met.row["question_id"]] = found
                continue
            places = most_relevant(found, self._num_chosen(met))
            chosen = tuple(met.picked[place] for place in places)
            made[met.row["question_id"]] = _asked(met, chosen, load_s=load_s, routing_s=routing_s)
        return made

    def _relevances(
        self, ready: Sequence[tuple[Met, list[Adapter], float]]
    ) -> Sequence[tuple[float, ...]]:
        return relevances(
            self._model.vlm,
            [(met.row["question"], segments) for met, segments, _ in ready],
            bias=self._model.bias(),
            max_new_tokens=self._config.max_new_tokens,
        )


def _batches(questions: Sequence[Met]) -> Iterator[list[Met]]:
    """Cut questions where their segments fill a device batch; a longer video stands alone."""
    batch: list[Met] = []
    num_rows = 0
    for met in questions:
        if batch and num_rows + len(met.picked) > ROWS_PER_BATCH:
            yield batch
            batch, num_rows = [], 0
        batch.append(met)
        num_rows += len(met.picked)
    if batch:
        yield batch


def _asked(
    met: Met, chosen: tuple[Row, ...], *, load_s: float = 0.0, routing_s: float = 0.0
) -> Asked:
    return Asked(
        row=met.row, num_tokens=met.num_tokens, chosen=chosen, load_s=load_s, routing_s=routing_s
    )


def _ids(adapters: Sequence[Row]) -> tuple[str, ...]:
    return tuple(adapter["adapter_sha256"] for adapter in adapters)
