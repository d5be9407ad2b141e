"""Which adapters answer a question: those of this model, of this video, of this span."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from storage.errors import VideoUnknownError
from storage.lake import Lake
from storage.schemas import Row
from tasks.recipe import ModelIdentity
from video2lora_core.errors import ModelMismatchError, UsageError
from video2lora_core.segments import Segment, meeting

_SHOWN = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Picked:
    """A video's adapters that meet a span."""

    video_id: str
    recipe_id: str
    rows: tuple[Row, ...]
    """Adapter rows in order of time."""
    composition_id: str | None = None
    """The stored composition that was asked for by its id."""

    @property
    def label(self) -> str:
        """What was picked, in words."""
        if self.composition_id is not None:
            return f"composition {self.composition_id[:_SHOWN]}"
        return f"video {self.video_id[:_SHOWN]}"

    @property
    def ids(self) -> list[str]:
        """What is composed: the stored composition, or every adapter."""
        if self.composition_id is not None:
            return [self.composition_id]
        return [row["adapter_sha256"] for row in self.rows]


def pick_adapters(
    lake: Lake,
    video: str,
    *,
    model: ModelIdentity,
    start_us: int | None = None,
    end_us: int | None = None,
    allow_random: bool = False,
) -> Picked:
    """Find a video's adapters that fit a model, and of these the ones that meet a span.

    Args:
        lake: where to look.
        video: an id, its first digits, a path or URI, a file name or a given id.
        model: the model that is to use them.
        start_us: start of the span; None is the start of the video.
        end_us: end of the span; None is the end of the video.
        allow_random: whether adapters made with random weights will do.

    Raises:
        VideoUnknownError: no such video, or several.
        ModelMismatchError: the video's adapters were made for another model or checkpoint, or with
            random weights.
        UsageError: the span lies outside the video, or the video was rejected.
    """
    video_id = _resolve(lake, video)
    recipe_id = fitting_recipe(lake, video_id, model, allow_random=allow_random)
    rows = lake.adapters_for([video_id], recipe_id).get(video_id, [])
    refuse_random(rows, allow_random)
    segments = {Segment(start_us=row["start_us"], end_us=row["end_us"]): row for row in rows}
    if start_us is None and end_us is None:
        return Picked(video_id=video_id, recipe_id=recipe_id, rows=tuple(rows))
    duration_us = _duration_us(lake, video_id)
    start_us, end_us = start_us or 0, duration_us if end_us is None else end_us
    if not 0 <= start_us < duration_us or end_us > duration_us:
        raise UsageError(
            f"span: {start_us / 1e6:g} s to {end_us / 1e6:g} s is outside the video (it lasts "
            f"{duration_us / 1e6:g} s); give --from and --to inside it"
        )
    met = meeting(list(segments), start_us=start_us, end_us=end_us)
    return Picked(
        video_id=video_id, recipe_id=recipe_id, rows=tuple(segments[segment] for segment in met)
    )


def refuse_random(rows: Sequence[Row], allow: bool) -> None:
    """Refuse adapters of random weights, which know nothing, unless they are allowed.

    Raises:
        ModelMismatchError: one of the rows says `is_random`.
    """
    found = [row["adapter_sha256"] for row in rows if row.get("is_random")]
    if found and not allow:
        raise ModelMismatchError(
            f"adapter {found[0][:_SHOWN]}: made with random weights, it knows nothing (found "
            f"{len(found)} of {len(rows)} so); give --allow-random if that is what you want"
        )


def _resolve(lake: Lake, video: str) -> str:
    """Find a video; of one that was rejected say why, rather than that it is unknown."""
    try:
        return lake.resolve_video(video)
    except VideoUnknownError:
        path = str(Path(video).expanduser().absolute())
        is_it = (pc.field("uri") == video) | (pc.field("uri") == path)
        is_it = is_it | pc.ends_with(pc.field("uri"), pattern=f"/{video}")
        rejects = lake.catalog.read("rejects", where=is_it & pc.field("adapter_key").is_null())
        if not rejects.num_rows:
            raise
        last = max(rejects.to_pylist(), key=lambda row: row["created_at"])
        raise UsageError(
            f"video {video!r}: it was rejected, {last['reason']} ({last['detail']}); replace the "
            "file and internalize it again"
        ) from None


def fitting_recipe(
    lake: Lake, video_id: str, model: ModelIdentity, *, allow_random: bool = False
) -> str:
    """Return the recipe of a video's adapters that this model made; of several the last used.

    Raises:
        ModelMismatchError: there are adapters, but of other models or checkpoints, or random ones.
        UsageError: the video has no adapter at all.
    """
    rows = lake.catalog.read(
        "adapters",
        columns=(
            "adapter_sha256",
            "recipe_id",
            "created_at",
            "checkpoint_sha256",
            "model_weights_sha256",
            "is_random",
        ),
        where=pc.field("video_id") == video_id,
    ).to_pylist()
    if not rows:
        raise UsageError(
            f"video {video_id[:_SHOWN]}: it has no adapter, every segment was rejected; see "
            "`video2lora sql 'select * from open_rejects'`"
        )
    if not allow_random:
        real = [row for row in rows if not row["is_random"]]
        refuse_random([] if real else rows, allow_random)
        rows = real
    fitting = [row for row in rows if _fits(row, model)]
    if not fitting:
        raise ModelMismatchError(_mismatch(rows[0], video_id, model))
    return str(max(fitting, key=lambda row: row["created_at"])["recipe_id"])


def _fits(row: Row, model: ModelIdentity) -> bool:
    return (row["checkpoint_sha256"], row["model_weights_sha256"]) == (
        model.checkpoint_sha256,
        model.weights_sha256,
    )


def _mismatch(row: Row, video_id: str, model: ModelIdentity) -> str:
    what, found, expected = (
        ("checkpoint", row["checkpoint_sha256"], model.checkpoint_sha256)
        if row["checkpoint_sha256"] != model.checkpoint_sha256
        else ("model weights", row["model_weights_sha256"], model.weights_sha256)
    )
    return (
        f"video {video_id[:_SHOWN]}: its adapters were made with another {what} (found "
        f"{found[:_SHOWN]}, the configured model has {expected[:_SHOWN]}); give the --model that "
        "made them, or internalize the video with this one"
    )


def _duration_us(lake: Lake, video_id: str) -> int:
    where = pc.field("video_id") == video_id
    rows = lake.catalog.read("videos", columns=("duration_us",), where=where)
    return int(pc.max(rows["duration_us"]).as_py())
