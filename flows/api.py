"""The Python entry: open a lake, fetch or compose an adapter, ask.

    from flows.api import open_lake

    lake = open_lake("my-lake")
    adapter = lake.adapter("street.mp4", start_s=10, end_s=20)
    print(lake.ask("What colour is the car?", adapter=adapter).text)

Nothing of the model is loaded before an adapter or an answer is asked for.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from configs.load import load_model_config
from configs.schema import ModelConfig
from storage import lake as storage_lake
from video2lora_core.errors import UsageError

if TYPE_CHECKING:  # torch takes seconds to import, and a query needs none of it
    import pyarrow as pa

    from storage.catalog import AsOf
    from tasks.models import LoadedModel
    from tasks.pick_adapters import Picked
    from video2lora_core.adapter import Adapter
    from video2lora_core.answer import Answer


def open_lake(uri: str, *, model: str = "tiny") -> "OpenLake":
    """Open an existing lake.

    Args:
        uri: a directory or s3://bucket/prefix.
        model: a name of configs/models or the path of a model config; it must be the one that
            made the lake's adapters.

    Raises:
        LakeError: there is no lake.
        UsageError: there is no such model config.
    """
    return OpenLake(storage_lake.open_lake(uri), load_model_config(model))


class OpenLake:
    """A lake with the model that is to use its adapters."""

    def __init__(self, lake: storage_lake.Lake, config: ModelConfig) -> None:
        """Put both together; `open_lake` is the usual way."""
        self.lake = lake
        self.config = config

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
            video: an id or its first digits, a path or URI, a file name, or a given id.
            start_s: start of the span in seconds; None is the video's start.
            end_s: end of the span in seconds; None is the video's end.

        Raises:
            VideoUnknownError: no such video, or several.
            ModelMismatchError: its adapters were made with another model or checkpoint.
            UsageError: the span lies outside the video.
        """
        from tasks.pick_adapters import pick_adapters
        from tasks.recipe import identify_model

        return pick_adapters(
            self.lake,
            video,
            model=identify_model(self.config),
            start_us=None if start_s is None else round(start_s * 1e6),
            end_us=None if end_s is None else round(end_s * 1e6),
        )

    def adapter(
        self, video: str, *, start_s: float | None = None, end_s: float | None = None
    ) -> "Adapter":
        """Compose a video's adapters, or those that meet a span, ready to be injected."""
        picked = self.pick(video, start_s=start_s, end_s=end_s)
        return self.compose([row["adapter_sha256"] for row in picked.rows])

    def compose(
        self,
        adapters: Sequence[str] | None = None,
        *,
        sql: str | None = None,
        coefficients: Sequence[float] | None = None,
    ) -> "Adapter":
        """Compose any set of adapters, given by their sha256 or by a query, ready to be injected.

        Args:
            adapters: adapter_sha256 of each.
            sql: in place of `adapters`, one SELECT with a column `adapter_sha256`.
            coefficients: what each adapter's update is multiplied by; 1 where not given.

        Raises:
            ModelMismatchError: an adapter was made with another checkpoint than the model's.
        """
        from tasks.answer_questions import fetch_composition

        if (adapters is None) == (sql is None):
            raise UsageError("compose: give either `adapters` or `sql`, one of them")
        sha256s = list(adapters) if adapters is not None else self._adapters_of(sql or "")
        if not sha256s:
            raise UsageError("compose: no adapter was chosen; give at least one")
        return fetch_composition(self.lake, self.model, sha256s, coefficients=coefficients)

    def ask(
        self,
        question: str,
        *,
        video: str | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        adapter: "Adapter | None" = None,
        max_new_tokens: int = 32,
    ) -> "Answer":
        """Answer a question from a video's adapters, or from an adapter composed before.

        The prompt is text alone: `num_visual_tokens` of the answer is always 0.

        Raises:
            PromptError: the question is empty or holds special tokens.
        """
        from tasks.answer_questions import answer_questions

        if (video is None) == (adapter is None):
            raise UsageError("ask: give either `video` or `adapter`, one of them")
        if adapter is None:
            adapter = self.adapter(video or "", start_s=start_s, end_s=end_s)
        return answer_questions(self.model, [question], adapter, max_new_tokens=max_new_tokens)[0]

    def _adapters_of(self, sql: str) -> list[str]:
        found = self.lake.query(sql)
        if "adapter_sha256" not in found.column_names:
            raise UsageError(
                f"compose: the query has no column adapter_sha256 (found "
                f"{', '.join(found.column_names)}); select it"
            )
        return [str(value) for value in found["adapter_sha256"].to_pylist()]
