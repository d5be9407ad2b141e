"""Takes a shard's events in order: fills device batches, stores adapters, commits whole units."""

from collections import deque

from configs.schema import InternalizeConfig
from storage.lake import Lake
from tasks.internalize_batch import MadeAdapter, internalize_batch
from tasks.meet_video import Reject
from tasks.models import load_model
from tasks.progress import report
from tasks.recipe import Recipe
from tasks.stopwatch import Stopwatch
from tasks.unit_rows import UnitDraft, common_columns, span_columns
from tasks.work_stream import Decoded, Event, Met, UnitEnd
from video2lora_core.frames import SegmentFrames


class ShardWriter:
    """Turns events into committed units; batches reach over videos and units."""

    def __init__(
        self,
        lake: Lake,
        config: InternalizeConfig,
        recipe: Recipe,
        *,
        run_id: str,
        shard: int,
        attempt_id: str,
        watch: Stopwatch,
    ) -> None:
        """Start at the first unit that is not committed; the model is loaded when needed."""
        self._lake = lake
        self._config = config
        self._recipe = recipe
        self._run_id = run_id
        self._shard = shard
        self._common = common_columns(recipe, attempt_id=attempt_id)
        self._watch = watch
        self._first_unit = lake.next_unit(run_id, shard)
        self._batch_segments = config.batch_segments or recipe.model.batch_segments
        self._batch: list[Decoded] = []
        self._drafts: deque[UnitDraft] = deque()
        self.num_segments = 0
        self.num_rejects = 0
        self.num_units = 0

    def take(self, event: Event) -> None:
        """Take the next event of the shard."""
        unit = event.slot.unit if isinstance(event, Decoded) else event.unit
        if unit < self._first_unit:
            return
        draft = self._draft(unit)
        if isinstance(event, Met):
            draft.add_video(event.video)
            report("rejects", int(event.video.is_new and event.video.reject is not None))
        elif isinstance(event, UnitEnd):
            draft.is_ended = True
            self._commit_complete()
        else:
            self._take_decoded(draft, event)

    def finish(self) -> None:
        """Do what still waits for a full batch, and commit it."""
        self._internalize()
        self._commit_complete()
        assert not self._drafts, "a unit was left open: the stream did not end it"

    def _take_decoded(self, draft: UnitDraft, decoded: Decoded) -> None:
        if isinstance(decoded.outcome, Reject):
            draft.add_reject(decoded, decoded.outcome)
            report("rejects")
            return
        draft.num_waiting += 1
        self._batch.append(decoded)
        if len(self._batch) >= self._batch_segments:
            self._internalize()
            self._commit_complete()

    def _internalize(self) -> None:
        batch, self._batch = self._batch, []
        if not batch:
            return
        with self._watch.measure("load"):
            model = load_model(self._recipe.model)
        frames = [d.outcome for d in batch if isinstance(d.outcome, SegmentFrames)]
        with self._watch.measure("internalize"):
            made = internalize_batch(
                model, self._recipe, frames, stored_dtype=self._config.stored_dtype
            )
        with self._watch.measure("store"):
            for decoded, outcome in zip(batch, made, strict=True):
                self._store(decoded, outcome)
        num_made = sum(isinstance(outcome, MadeAdapter) for outcome in made)
        self.num_segments += num_made
        report("segments", num_made)

    def _store(self, decoded: Decoded, outcome: MadeAdapter | Reject) -> None:
        draft = self._draft(decoded.slot.unit)
        draft.num_waiting -= 1
        if isinstance(outcome, Reject):
            draft.add_reject(decoded, outcome)
            report("rejects")
            return
        adapter_sha256 = self._lake.adapters.put(outcome.data)
        columns = {**span_columns(decoded.slot), **outcome.columns}
        draft.add_adapter(decoded, {**columns, "adapter_sha256": adapter_sha256})

    def _commit_complete(self) -> None:
        while self._drafts and self._drafts[0].is_complete:
            draft = self._drafts.popleft()
            with self._watch.measure("store"):
                outcome = self._lake.commit_unit(
                    run_id=self._run_id,
                    shard=self._shard,
                    unit=draft.unit,
                    rows=draft.rows(),
                    common=self._common,
                )
            if outcome == "committed":
                self.num_units += 1
                self.num_rejects += draft.num_rejects

    def _draft(self, unit: int) -> UnitDraft:
        for draft in self._drafts:
            if draft.unit == unit:
                return draft
        draft = UnitDraft(unit, corpus_name=self._config.corpus_name or self._config.corpus)
        self._drafts.append(draft)
        return draft
