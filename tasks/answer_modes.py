"""Questions to answers, mode by mode: from adapters, or from nothing at all.

Rows of any videos share a batch, of like rank and length, so that little of it is padding. A video
with more questions than a batch holds has batches of its own, and its adapter is added to second
weights where that pays. What is composed stays in memory, up to a limit in bytes, and its files are
read once. The modes that show frames are in answer_frames.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch

from configs.answer_schema import AnswerConfig
from storage.errors import ObjectError
from storage.identity import composition_id
from storage.schemas import Row
from tasks.adapter_cache import AdapterCache
from tasks.answer_batches import (
    Outcome,
    Outcomes,
    answer_columns,
    halving,
    num_prompt_tokens,
)
from tasks.answer_recipe import AnswerRecipe
from tasks.answer_routing import Asked, Met, Router
from tasks.meet_video import Reject
from tasks.models import LoadedModel
from tasks.pick_many import ManyAdapters
from video2lora_core.adapter import Adapter
from video2lora_core.answer import Answer, answer
from video2lora_core.answer_plan import is_merging_faster, plan_batches
from video2lora_core.errors import Reason
from video2lora_core.inject import merged
from video2lora_core.vlm import query_ids


class Answerer(Protocol):
    """Answers a unit's questions in one mode."""

    def answer(self, rows: Sequence[Row]) -> Outcomes:
        """Return the outcome of every question."""
        ...


class BlindAnswerer:
    """Asks the model without any video."""

    def __init__(self, model: LoadedModel, config: AnswerConfig) -> None:
        """Ask `model`."""
        self._model = model
        self._config = config

    def answer(self, rows: Sequence[Row]) -> Outcomes:
        """Return the outcome of every question."""
        outcomes: dict[str, Outcome] = {}
        asked: list[tuple[int, str, Row]] = []
        for row in rows:
            length = _prompt_length(self._model, row, self._config)
            if isinstance(length, Reject):
                outcomes[row["question_id"]] = length
            else:
                asked.append((length, row["question_id"], row))
        places = plan_batches(
            [(num_tokens, 0) for num_tokens, *_ in asked], max_rows=self._config.batch_questions
        )
        for batch in ([asked[place] for place in batch] for batch in places):
            given = halving(self._ask, batch, device=self._model.vlm.device)
            for (_, question_id, _), one in zip(batch, given, strict=True):
                outcomes[question_id] = (
                    one
                    if isinstance(one, Reject)
                    else answer_columns(one, answer_s=one.answer_s / len(batch))
                )
        return outcomes

    def _ask(self, batch: Sequence[tuple[int, str, Row]]) -> Sequence[Answer]:
        questions = [row["question"] for *_, row in batch]
        return answer(self._model.vlm, questions, max_new_tokens=self._config.max_new_tokens)


class Picker:
    """Finds the adapters that a question was planned with."""

    def __init__(self, adapters: ManyAdapters, recipe: AnswerRecipe) -> None:
        """Pick of `adapters`."""
        self._adapters = adapters
        self._recipe = recipe

    def pick(self, row: Row) -> tuple[Row, ...] | Reject:
        """Return the adapters, or why they cannot answer any more."""
        span = (row["start_us"], row["end_us"])
        picked = self._adapters.pick(row["video_id"], span)
        if isinstance(picked, Reject):
            return picked
        found = self._recipe.answer_id(
            question_id=row["question_id"],
            question=row["question"],
            video_id=row["video_id"],
            span=span,
            adapters=[adapter["adapter_sha256"] for adapter in picked],
        )
        if found == row["answer_id"]:
            return picked
        detail = f"video {row['video_id'][:12]}: it got other adapters meanwhile; ask again"
        return Reject(reason=Reason.ADAPTER_MISSING, detail=detail)


class AdapterAnswerer:
    """Asks the model with the adapters of each question's own video."""

    def __init__(
        self,
        model: LoadedModel,
        config: AnswerConfig,
        *,
        picker: Picker,
        cache: AdapterCache,
    ) -> None:
        """Ask `model` with the adapters that `picker` finds and `cache` reads."""
        self._model = model
        self._config = config
        self._picker = picker
        self._cache = cache
        self._router = Router(model, config, cache=cache)

    def answer(self, rows: Sequence[Row]) -> Outcomes:
        """Return the outcome of every question."""
        found: dict[str, Met | Asked | Reject] = {
            row["question_id"]: self._meet(row) for row in rows
        }
        found |= self._router.choose([one for one in found.values() if isinstance(one, Met)])
        outcomes: dict[str, Outcome] = {
            question_id: one for question_id, one in found.items() if isinstance(one, Reject)
        }
        asked = [one for one in found.values() if isinstance(one, Asked)]
        groups: dict[tuple[str, ...], list[Asked]] = {}
        for one in asked:
            groups.setdefault(one.ids, []).append(one)
        size = self._config.batch_questions
        shared = [one for group in groups.values() if len(group) <= size for one in group]
        for batch in self._batches(shared):
            outcomes |= self._batch(batch)
        for group in groups.values():
            if len(group) > size:
                outcomes |= self._one_adapter(group)
        return outcomes

    def _batches(self, asked: Sequence[Asked]) -> list[list[Asked]]:
        places = plan_batches([one.size for one in asked], max_rows=self._config.batch_questions)
        return [[asked[place] for place in batch] for batch in places]

    def _one_adapter(self, asked: Sequence[Asked]) -> Outcomes:
        """Answer more than a batch from one adapter; it is merged where that is expected to pay.

        How many forwards a batch takes is known from the first one.
        """
        first, *rest = self._batches(asked)
        outcomes: dict[str, Outcome] = dict(self._batch(first))
        made = [one for one in outcomes.values() if not isinstance(one, Reject)]
        num_steps = 1 + max((one["num_new_tokens"] for one in made), default=0)
        size = self._config.batch_questions
        is_merging = bool(made) and is_merging_faster(len(rest) * num_steps, num_rows=size)
        block = (
            merged(self._model.vlm, self._cache.composed(asked[0].ids))
            if is_merging
            else nullcontext()
        )
        with torch.no_grad(), block:
            for batch in rest:
                outcomes |= self._batch(batch, is_merged=is_merging)
        return outcomes

    def _meet(self, row: Row) -> Met | Reject:
        length = _prompt_length(self._model, row, self._config)
        if isinstance(length, Reject):
            return length
        picked = self._picker.pick(row)
        if isinstance(picked, Reject):
            return picked
        return Met(row=row, num_tokens=length, picked=picked)

    def _batch(self, batch: Sequence[Asked], *, is_merged: bool = False) -> Outcomes:
        """Answer one batch; a question whose adapter cannot be read is left out of it."""
        before = (self._cache.load_s, self._cache.compose_s)
        rejects: dict[str, Outcome] = {}
        ready = []
        for one in batch:
            try:
                ready.append((one, self._cache.composed(one.ids)))
            except ObjectError as error:
                reject = Reject(reason=Reason.ADAPTER_MISSING, detail=str(error))
                rejects[one.row["question_id"]] = reject
        if not ready:
            return rejects
        load_s, compose_s = self._cache.load_s - before[0], self._cache.compose_s - before[1]
        ask = self._ask_merged if is_merged else self._ask
        given = halving(ask, ready, device=self._model.vlm.device)
        return rejects | {
            one.row["question_id"]: made
            if isinstance(made, Reject)
            else answer_columns(
                made,
                load_s=one.load_s + load_s / len(ready),
                compose_s=compose_s / len(ready),
                answer_s=one.routing_s + made.answer_s / len(ready),
                rank=adapter.rank,
                **_origin(one.chosen),
            )
            for (one, adapter), made in zip(ready, given, strict=True)
        }

    def _ask(self, batch: Sequence[tuple[Asked, Adapter]]) -> Sequence[Answer]:
        return answer(
            self._model.vlm,
            [one.row["question"] for one, _ in batch],
            adapters=[adapter for _, adapter in batch],
            max_new_tokens=self._config.max_new_tokens,
        )

    def _ask_merged(self, batch: Sequence[tuple[Asked, Adapter]]) -> Sequence[Answer]:
        """Ask the model, whose weights hold the batch's adapter already."""
        questions = [one.row["question"] for one, _ in batch]
        return answer(self._model.vlm, questions, max_new_tokens=self._config.max_new_tokens)


def _prompt_length(model: LoadedModel, row: Row, config: AnswerConfig) -> int | Reject:
    return num_prompt_tokens(
        model.vlm,
        lambda: query_ids(model.vlm, row["question"]),
        max_new_tokens=config.max_new_tokens,
    )


def _origin(chosen: Sequence[Row]) -> Row:
    """Return the columns that say what answered."""
    ids = [adapter["adapter_sha256"] for adapter in chosen]
    recipe_id = chosen[0]["recipe_id"]
    return {
        "recipe_id": recipe_id,
        "composition_id": composition_id(
            recipe_id=recipe_id, method="concat", parents=ids, coefficients=[1.0] * len(ids)
        ),
        "parents": ids,
        "num_segments": len(ids),
        "num_frames": sum(len(adapter["frame_times_us"]) for adapter in chosen),
        "checkpoint_sha256": chosen[0]["checkpoint_sha256"],
    }
