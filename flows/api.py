"""The Python entry: open a lake, fetch or compose an adapter, ask.

    from flows.api import open_lake

    lake = open_lake("my-lake")
    adapter = lake.adapter("street.mp4", start_s=10, end_s=20)
    print(lake.ask("What colour is the car?", adapter=adapter).text)

Nothing of the model is loaded before an adapter or an answer is asked for.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import load_model_config
from configs.schema import ModelConfig
from storage import lake as storage_lake
from video2lora_core.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and a query needs none of it
    import pyarrow as pa

    from storage.catalog import AsOf
    from tasks.compose_adapters import Composed, Reduction
    from tasks.export_adapters import ExportSettings
    from tasks.members import Members
    from tasks.models import LoadedModel
    from tasks.pick_adapters import Picked
    from video2lora_core.adapter import Adapter
    from video2lora_core.answer import Answer
    from video2lora_core.routing import RoutedAnswer


def open_lake(uri: str, *, model: str = "tiny", allow_random: bool = False) -> "OpenLake":
    """Open an existing lake.

    Args:
        uri: a directory or s3://bucket/prefix.
        model: a name of configs/models or the path of a model config; it must be the one that
            made the lake's adapters.
        allow_random: use the model with random weights, and the adapters that `internalize
            --random-weights` made with it, which are refused otherwise.

    Raises:
        LakeError: there is no lake.
        UsageError: there is no such model config.
    """
    config = load_model_config(model, random_weights=allow_random)
    opened = storage_lake.open_lake(uri)
    return OpenLake(opened, config, model_name=model, allow_random=allow_random)


class OpenLake:
    """A lake with the model that is to use its adapters."""

    def __init__(
        self,
        lake: storage_lake.Lake,
        config: ModelConfig,
        *,
        model_name: str = "tiny",
        allow_random: bool = False,
    ) -> None:
        """Put both together; `open_lake` is the usual way."""
        self.lake = lake
        self.config = config
        self.model_name = model_name
        self.allow_random = allow_random

    @cached_property
    def model(self) -> "LoadedModel":
        """The model, loaded when first needed."""
        from tasks.models import load_model

        return load_model(self.config)

    def sql(self, query: str, *, as_of: "AsOf | None" = None) -> "pa.Table":
        """Run one SELECT over the catalog and return its rows.

        Args:
            query: One SELECT or WITH statement.
            as_of: A time, or a version per table; the catalog as it was then.

        Raises:
            CatalogQueryError: the text is not one SELECT, or it failed.
        """
        return self.lake.query(query, as_of=as_of)

    def pick(
        self, video: str, *, start_s: float | None = None, end_s: float | None = None
    ) -> "Picked":
        """Return the adapter rows of a video that fit the model and meet a span.

        Args:
            video: an id or its first digits, a path or URI, a file name, a given id, or
                `composition:ID` for a stored composition, which has no span.
            start_s: start of the span in seconds; None is the video's start.
            end_s: end of the span in seconds; None is the video's end.

        Raises:
            VideoUnknownError: no such video, or several.
            ModelMismatchError: its adapters were made with another model or checkpoint.
            UsageError: the span lies outside the video.
        """
        from tasks.members import pick_composition
        from tasks.pick_adapters import pick_adapters
        from tasks.recipe import identify_model

        if video.startswith("composition:") and start_s is None and end_s is None:
            text = video.removeprefix("composition:")
            return pick_composition(self.lake, text, allow_random=self.allow_random)
        return pick_adapters(
            self.lake,
            video,
            model=identify_model(self.config),
            start_us=None if start_s is None else round(start_s * 1e6),
            end_us=None if end_s is None else round(end_s * 1e6),
            allow_random=self.allow_random,
        )

    def adapter(
        self, video: str, *, start_s: float | None = None, end_s: float | None = None
    ) -> "Adapter":
        """Compose a video's adapters, or those that meet a span, ready to be injected."""
        picked = self.pick(video, start_s=start_s, end_s=end_s)
        return self.compose(picked.ids)

    def members(
        self,
        adapters: Sequence[str] | None = None,
        *,
        sql: str | None = None,
        coefficients: Sequence[float] | None = None,
    ) -> "Members":
        """Find what is to be composed or exported, by ids or by a query; see `compose`."""
        from tasks.members import find_members

        if (adapters is None) == (sql is None):
            raise UsageError("compose: give either `adapters` or `sql`, one of them")
        ids = list(adapters) if adapters is not None else self._selected(sql or "")
        allowed = self.allow_random
        return find_members(self.lake, ids, coefficients=coefficients, allow_random=allowed)

    def compose(
        self,
        adapters: Sequence[str] | None = None,
        *,
        sql: str | None = None,
        coefficients: Sequence[float] | None = None,
        reduction: "Reduction | None" = None,
    ) -> "Adapter":
        """Compose any set of adapters, given by id or by a query, ready to be injected.

        Args:
            adapters: adapter_sha256 of each, or the composition_id of a stored composition.
            sql: in place of `adapters`, one SELECT with a column `adapter_sha256` or
                `composition_id`.
            coefficients: what each adapter's update is multiplied by; 1 where not given.
            reduction: how the sum is shortened; not at all where not given.

        Raises:
            ModelMismatchError: an adapter was made with another model, or its video was deleted.
        """
        from tasks.answer_questions import ready
        from tasks.members import require_fitting
        from tasks.recipe import identify_model

        members = self.members(adapters, sql=sql, coefficients=coefficients)
        require_fitting(members.rows, identify_model(self.config))
        return ready(self.model, self.composition(members, reduction).adapter)

    def composition(self, members: "Members", reduction: "Reduction | None" = None) -> "Composed":
        """Compose, without the bias and without any model: the sum, its row and its error."""
        from tasks.compose_adapters import Reduction, compose_adapters

        return compose_adapters(self.lake, members, reduction or Reduction())

    def save(self, composed: "Composed") -> str:
        """Store a composition exactly once; return its id, which `compose` and `ask` take."""
        from tasks.compose_adapters import save_composition

        return str(save_composition(self.lake, composed)["composition_id"])

    def export(
        self,
        out: str | Path,
        videos: Sequence[str] = (),
        *,
        adapters: Sequence[str] | None = None,
        sql: str | None = None,
        settings: "ExportSettings | None" = None,
    ) -> dict[str, Any]:
        """Write PEFT directories: one per video or `composition:ID`, one per adapter id or row.

        Raises:
            UsageError: `out` holds another export or other files.
            AdapterError: an adapter has more ranks than vLLM serves.
        """
        from tasks.export_adapters import ExportSettings, export_adapters
        from tasks.members import each_adapter

        wanted = [(p.label, self.members(p.ids)) for p in map(self.pick, videos)]
        if not wanted or adapters is not None or sql is not None:
            wanted += each_adapter(self.members(adapters, sql=sql))
        return export_adapters(
            self.lake,
            wanted,
            Path(out),
            model=self.config,
            settings=settings or ExportSettings(),
        )

    def ask(
        self,
        question: str,
        *,
        video: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        adapter: "Adapter | None" = None,
        strategy: str | None = None,
        max_new_tokens: int = 32,
    ) -> "Answer":
        """Answer a question from a video's adapters, or from an adapter composed before.

        The prompt is text alone: `num_visual_tokens` of the answer is always 0. `strategy` is
        `answer_picked`'s.

        Raises:
            PromptError: the question is empty or holds special tokens.
        """
        from tasks.answer_questions import answer_questions

        if (video is None) == (adapter is None):
            raise UsageError("ask: give either `video` or `adapter`, one of them")
        if adapter is None:
            picked = self.pick(video or "", start_s=start_s, end_s=end_s)
            found = self.answer_picked(
                question, picked, strategy=strategy, max_new_tokens=max_new_tokens
            )
            return found.answer
        return answer_questions(self.model, [question], adapter, max_new_tokens=max_new_tokens)[0]

    def answer_picked(
        self,
        question: str,
        picked: "Picked",
        *,
        strategy: str | None = None,
        max_new_tokens: int = 32,
    ) -> "RoutedAnswer":
        """Answer from what `pick` found, and say which of it answered.

        Args:
            question: the question.
            picked: a video's adapters, or a stored composition.
            strategy: `compose` sums all, `route` asks the segment that the question is most
                about, `route-compose` (the default of a video) sums the few most relevant. A
                stored composition is always the sum that it is.
            max_new_tokens: longest answer.
        """
        from tasks.answer_questions import answer_over_segments
        from tasks.compose_adapters import fetch_adapters
        from tasks.members import require_fitting
        from tasks.recipe import identify_model
        from video2lora_core.routing import DEFAULT_STRATEGY, RoutedAnswer

        if picked.composition_id is not None:
            given = self.ask(
                question, adapter=self.compose(picked.ids), max_new_tokens=max_new_tokens
            )
            return RoutedAnswer(answer=given, chosen=tuple(range(len(picked.rows))), relevance=None)
        members = self.members(picked.ids)
        require_fitting(members.rows, identify_model(self.config))
        return answer_over_segments(
            self.model,
            question,
            fetch_adapters(self.lake, members.parts),
            strategy=strategy or DEFAULT_STRATEGY,
            max_new_tokens=max_new_tokens,
        )

    def answer_many(self, questions: str, **settings: Any) -> "pa.Table":
        """Answer a question set and return its rows with their answers, or the reasons of none.

        Args:
            questions: a Parquet, JSONL or CSV file, or a SELECT over the catalog.
            settings: fields of `configs.answer_schema.AnswerConfig`, such as `mode`.

        Raises:
            UsageError: the set cannot be read, or a setting is wrong.
        """
        from configs.load import load_answer_config
        from flows.answer_questions import run_answers
        from tasks.answer_results import answers_table

        given: dict[str, Any] = {"questions": questions, "lake": self.lake.uri, "engine": "local"}
        given |= {"model": self.model_name, "allow_random": self.allow_random}
        summary = run_answers(load_answer_config(None, {**given, **settings}))
        return answers_table(self.lake, summary.plan.run_id)

    def _selected(self, sql: str) -> list[str]:
        found = self.lake.query(sql)
        for column in ("adapter_sha256", "composition_id"):
            if column in found.column_names:
                return [str(value) for value in found[column].to_pylist()]
        raise UsageError(
            f"compose: the query has no column adapter_sha256 or composition_id (found "
            f"{', '.join(found.column_names)}); select one"
        )


def import_peft(directory: str | Path, *, has_bias: bool | None = None) -> "Adapter":
    """Read a PEFT directory as an adapter that `OpenLake.ask` takes.

    Args:
        directory: with adapter_config.json and adapter_model.safetensors.
        has_bias: whether the checkpoint's bias is among its ranks; our own exports say it.

    Raises:
        AdapterError: it is no plain LoRA of SmolVLM's text blocks.
    """
    from tasks.export_adapters import read_peft

    return read_peft(Path(directory), has_bias=has_bias)
