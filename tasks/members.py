"""What is composed or exported: adapters and compositions, found by id and checked to fit together.

A member is a row of `adapters` or of `compositions`. Its leaves are the segment adapters that it is
made of in the end; they decide coverage, and whether a video among them was deleted.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from storage.lake import Lake
from storage.schemas import Row
from tasks.pick_adapters import Picked, refuse_random
from tasks.recipe import ModelIdentity
from video2lora_core.errors import AdapterError, ModelMismatchError, UsageError

_SHOWN = 12
_LEAST_DIGITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A file that goes into a sum, with what its update is multiplied by."""

    member_id: str
    """adapter_sha256 of a segment adapter, composition_id of a reduced composition."""
    file_sha256: str
    """The adapter file."""
    coefficient: float
    tree: Mapping[str, Any] | None = None
    """How a composition was made; None for a segment adapter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Members:
    """What is to be composed, flat: sums of sums are one sum."""

    parts: tuple[Part, ...]
    leaves: tuple[tuple[Row, float], ...]
    """Rows of the segment adapters, each with its coefficient, in order."""

    @property
    def rows(self) -> list[Row]:
        """The leaves' rows."""
        return [row for row, _ in self.leaves]

    @property
    def is_nested(self) -> bool:
        """Whether a reduced composition is among the parts."""
        return any(part.tree is not None for part in self.parts)


def find_members(
    lake: Lake,
    ids: Sequence[str],
    *,
    coefficients: Sequence[float] | None = None,
    allow_random: bool = False,
) -> Members:
    """Find adapters and compositions by id and flatten them.

    Args:
        lake: where to look.
        ids: adapter_sha256 or composition_id of each, whole or its first digits.
        coefficients: what each one's update is multiplied by; 1 where not given.
        allow_random: take adapters of random weights too.

    Raises:
        UsageError: an id is unknown or ambiguous, there is none, or coefficients are too few.
        AdapterError: the adapters were made with different checkpoints.
        ModelMismatchError: an adapter's weights are random, or its video was deleted.
    """
    if not ids:
        raise UsageError("compose: no adapter was chosen; give at least one")
    numbers = [1.0] * len(ids) if coefficients is None else [float(c) for c in coefficients]
    if len(numbers) != len(ids):
        raise UsageError(
            f"compose: {len(numbers)} coefficients for {len(ids)} adapters; give one for each"
        )
    if len(set(ids)) < len(ids):
        raise UsageError(
            f"compose: {len(ids) - len(set(ids))} ids are given twice (expected each once); select "
            "distinct ones, and use a coefficient to count one more"
        )
    adapters, compositions = _rows(lake, ids)
    wanted = [*adapters, *(sha for row in compositions.values() for sha in row["parents"])]
    leaf_rows = _by_id(lake, "adapters", "adapter_sha256", wanted)
    parts: list[Part] = []
    leaves: list[tuple[Row, float]] = []
    for given, number in zip(ids, numbers, strict=True):
        row = _only(given, adapters, compositions)
        parts += _parts(row, number)
        leaves += [(_leaf(leaf_rows, sha), c * number) for sha, c in _leaves(row)]
    members = Members(parts=tuple(parts), leaves=tuple(leaves))
    _check(lake, members, allow_random=allow_random)
    return members


def each_adapter(members: Members) -> list[tuple[str, Members]]:
    """Split members into one label and one sum for each, as they were given."""
    if members.is_nested or len(members.parts) != len(members.leaves):
        raise UsageError(
            "export: --ids and --sql name segment adapters (found a composition among them); give "
            "--composition ID for each of these"
        )
    return [
        (
            f"video {row['video_id'][:_SHOWN]}, {row['start_us'] / 1e6:g} to "
            f"{row['end_us'] / 1e6:g} s",
            Members(parts=(part,), leaves=((row, coefficient),)),
        )
        for part, (row, coefficient) in zip(members.parts, members.leaves, strict=True)
    ]


def pick_composition(lake: Lake, text: str, *, allow_random: bool = False) -> Picked:
    """Find a stored composition by its id or the id's first digits.

    Raises:
        UsageError: there is none, or there are several.
    """
    row = _only(text, _rows(lake, [text])[1])
    composition_id = row["composition_id"]
    members = find_members(lake, [composition_id], allow_random=allow_random)
    videos = sorted({leaf["video_id"] for leaf in members.rows})
    return Picked(
        video_id=", ".join(video_id[:_SHOWN] for video_id in videos),
        recipe_id=row["recipe_id"],
        rows=tuple(members.rows),
        composition_id=composition_id,
    )


def require_fitting(rows: Sequence[Row], model: ModelIdentity) -> None:
    """Refuse adapters that another checkpoint, or another model, made than the one given.

    Raises:
        ModelMismatchError: there is such an adapter.
    """
    checks = (
        ("checkpoint", "checkpoint_sha256", model.checkpoint_sha256),
        ("model weights", "model_weights_sha256", model.weights_sha256),
    )
    for row in rows:
        for what, column, expected in checks:
            if row[column] != expected:
                raise ModelMismatchError(
                    f"adapter {row['adapter_sha256'][:_SHOWN]}: made with another {what} (found "
                    f"{row[column][:_SHOWN]}, the configured model has {expected[:_SHOWN]}); give "
                    "the --model that made it"
                )


def _rows(lake: Lake, ids: Sequence[str]) -> tuple[dict[str, Row], dict[str, Row]]:
    """Find the rows of ids, by whole id, among adapters and among compositions."""
    whole = [text for text in ids if len(text) == 64]
    adapters = _by_id(lake, "adapters", "adapter_sha256", whole)
    rest = [text for text in whole if text not in adapters]
    compositions = _by_id(lake, "compositions", "composition_id", rest)
    for text in ids:
        if len(text) != 64:
            adapters |= _by_prefix(lake, "adapters", "adapter_sha256", text)
            compositions |= _by_prefix(lake, "compositions", "composition_id", text)
    return adapters, compositions


def _by_id(lake: Lake, table: str, column: str, ids: Iterable[str]) -> dict[str, Row]:
    wanted = pa.array(sorted(set(ids)), pa.string())
    if not len(wanted):
        return {}
    rows = lake.catalog.read(table, where=pc.field(column).isin(wanted)).to_pylist()
    return {row[column]: row for row in sorted(rows, key=lambda r: r["created_at"], reverse=True)}


def _by_prefix(lake: Lake, table: str, column: str, text: str) -> dict[str, Row]:
    if len(text) < _LEAST_DIGITS or not set(text) <= set("0123456789abcdef"):
        raise UsageError(
            f"id {text[:80]!r}: no adapter or composition is called so (expected 64 hexadecimal "
            f"digits, or the first {_LEAST_DIGITS} and more); look it up with `video2lora sql`"
        )
    rows = lake.catalog.read(table, where=pc.starts_with(pc.field(column), pattern=text))
    return {row[column]: row for row in rows.to_pylist()}


def _leaf(rows: Mapping[str, Row], sha256: str) -> Row:
    if sha256 not in rows:
        raise ModelMismatchError(
            f"compose: adapter {sha256[:_SHOWN]} of a composition is no longer in the lake (its "
            "video was deleted); compose anew without it"
        )
    return rows[sha256]


def _only(text: str, *tables: Mapping[str, Row]) -> Row:
    found = [table[text] for table in tables if text in table]
    if not found:
        found = [row for table in tables for key, row in table.items() if key.startswith(text)]
    if len(found) != 1:
        raise UsageError(
            f"id {text[:80]!r}: {len(found)} adapters and compositions of the lake fit (expected "
            "1); give more digits, or look it up with `video2lora sql`"
        )
    return found[0]


def _parts(row: Row, coefficient: float) -> list[Part]:
    if "composition_id" not in row:
        sha256 = row["adapter_sha256"]
        return [Part(member_id=sha256, file_sha256=sha256, coefficient=coefficient)]
    tree = json.loads(row["tree"]) if row["tree"] else None
    if row["adapter_sha256"] is not None:
        return [
            Part(
                member_id=row["composition_id"],
                file_sha256=row["adapter_sha256"],
                coefficient=coefficient,
                tree=tree or {"method": row["method"]},
            )
        ]
    if tree is None:
        return [
            Part(member_id=sha256, file_sha256=sha256, coefficient=c * coefficient)
            for sha256, c in _leaves(row)
        ]
    return [
        Part(
            member_id=member.get("composition", member["file"]),
            file_sha256=member["file"],
            coefficient=member["coefficient"] * coefficient,
            tree=member.get("tree"),
        )
        for member in tree["members"]
    ]


def _leaves(row: Row) -> list[tuple[str, float]]:
    if "composition_id" in row:
        return list(zip(row["parents"], row["coefficients"], strict=True))
    return [(row["adapter_sha256"], 1.0)]


def _check(lake: Lake, members: Members, *, allow_random: bool) -> None:
    refuse_random(members.rows, allow_random)
    for what in ("checkpoint_sha256", "model_weights_sha256"):
        found = sorted({row[what][:_SHOWN] for row in members.rows})
        if len(found) > 1:
            raise AdapterError(
                f"compose: the adapters' {what} differ ({' vs '.join(found)}); combine only "
                "adapters of one checkpoint and one model"
            )
    deleted = lake.deleted_videos() & {row["video_id"] for row in members.rows}
    if deleted:
        raise ModelMismatchError(
            f"compose: video {min(deleted)[:_SHOWN]} was deleted (found {len(deleted)} such among "
            "the adapters); leave its adapters out"
        )
