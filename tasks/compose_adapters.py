"""Compose any adapters of a lake, reduce the sum where asked, and store the composition once.

`concat` is exact and needs no file. `top_k` and `svd` make one: its bytes are published first, then
one row names them. The row's transaction is the composition's own id, so whoever computes the same
composition at the same time, one row stands in the end. The error is that of the stored bytes,
against the exact sum of the segments, however the composition was nested.
"""

import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyarrow.compute as pc
import torch

from storage import identity
from storage.lake import Lake
from storage.schemas import Row
from tasks.members import Members, Part
from tasks.unit_rows import CODE_VERSION
from video2lora_core import reduction
from video2lora_core.adapter import Adapter, adapter_bytes, adapter_from_bytes
from video2lora_core.compose import concat
from video2lora_core.errors import UsageError

Method = Literal["concat", "top_k", "svd"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduction:
    """How a sum is shortened."""

    method: Method = "concat"
    rank: int | None = None
    """Most ranks, the bias aside."""
    num_bytes: int | None = None
    """Or most bytes of the file."""
    seed: int = 0
    """Decides the randomised path of `svd`, which sums wider than a module take."""

    def __post_init__(self) -> None:
        given = [value for value in (self.rank, self.num_bytes) if value is not None]
        expected = 0 if self.method == "concat" else 1
        if len(given) != expected or any(value < 1 for value in given):
            raise UsageError(
                f"compose: method {self.method} with rank {self.rank} and {self.num_bytes} bytes "
                "(expected none of both for concat, one positive number for top_k and svd); give "
                "--rank or --bytes with --method top_k or svd"
            )


def reduction_of(method: str, *, rank: int | None, num_bytes: int | None, seed: int) -> Reduction:
    """Return the reduction that was asked for in words.

    Raises:
        UsageError: there is no such method, or its budget is missing.
    """
    for known in get_args(Method):
        if method == known:
            return Reduction(method=known, rank=rank, num_bytes=num_bytes, seed=seed)
    raise UsageError(
        f"compose: method {method!r} is unknown; give one of {', '.join(get_args(Method))}"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Composed:
    """A composition, ready to be stored or used."""

    adapter: Adapter
    """Without the bias."""
    row: Row
    """Its columns in the catalog."""
    data: bytes | None
    """Its file; None for concat."""


def compose_adapters(lake: Lake, members: Members, how: Reduction) -> Composed:
    """Sum the members' updates and reduce the sum as asked; nothing is written.

    Raises:
        AdapterError: the adapters cannot stand together.
        UsageError: the budget is too small for any rank.
    """
    whole = fetch_sum(lake, members.parts)
    adapter, data, settings = _reduced(whole, members, how)
    error = 0.0
    if data is not None or members.is_nested:
        error = reduction.relative_error(_exact(lake, members, whole), adapter)
    row = _row(members, how.method, settings) | {
        "rank": adapter.rank,
        "relative_error": error,
        "adapter_sha256": None if data is None else identity.sha256_hex(data),
        "size_bytes": None if data is None else len(data),
    }
    return Composed(adapter=adapter, row=row, data=data)


def save_composition(lake: Lake, composed: Composed) -> Row:
    """Store a composition exactly once, and return the row that stands in the catalog."""
    composition_id = composed.row["composition_id"]
    stored = _stored(lake, composition_id)
    # A row without its closing row is what a killed attempt left: it is completed below.
    is_own = stored is not None and stored["run_id"] == composition_id
    if stored is not None and (not is_own or lake.next_unit(composition_id, 0) > 0):
        return stored
    if composed.data is not None:
        lake.adapters.put(composed.data)
    lake.commit_unit(
        run_id=composition_id,
        shard=0,
        unit=0,
        rows={"compositions": [composed.row], "runs": [{"event": "composed"}]},
        common={
            "recipe_id": composed.row["recipe_id"],
            "attempt_id": uuid.uuid4().hex,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "code_version": CODE_VERSION,
        },
    )
    stored = _stored(lake, composition_id)
    assert stored is not None
    if stored["adapter_sha256"] is not None:
        lake.adapters.settle([stored["adapter_sha256"]])
    return stored


def fetch_sum(lake: Lake, parts: Sequence[Part]) -> Adapter:
    """Fetch files and sum their updates."""
    return concat(fetch_adapters(lake, parts), coefficients=[part.coefficient for part in parts])


def fetch_adapters(lake: Lake, parts: Sequence[Part]) -> list[Adapter]:
    """Fetch files, without their coefficients."""
    return [adapter_from_bytes(lake.adapters.get(part.file_sha256)) for part in parts]


def _reduced(
    whole: Adapter, members: Members, how: Reduction
) -> tuple[Adapter, bytes | None, dict[str, Any]]:
    """Return the adapter, its file, and what decided both beside the members."""
    if how.method == "concat":
        return whole, None, {}
    stored = {row["dtype"] for row in members.rows}
    dtype = torch.float32 if stored == {"float32"} else torch.bfloat16
    rank = how.rank or reduction.rank_within(whole, num_bytes=how.num_bytes or 0, dtype=dtype)
    settings: dict[str, Any] = {"rank": rank, "dtype": str(dtype).removeprefix("torch.")}
    if how.method == "svd":
        if reduction.needs_seed(whole, rank=rank):
            settings["seed"] = how.seed
        short, _ = reduction.svd(whole, rank=rank, seed=how.seed)
    else:
        short, _ = reduction.top_k(whole, rank=rank)
    data = adapter_bytes(short, dtype=dtype)
    return adapter_from_bytes(data), data, settings


def _exact(lake: Lake, members: Members, whole: Adapter) -> Adapter:
    if not members.is_nested:
        return whole
    leaves = [
        Part(member_id=row["adapter_sha256"], file_sha256=row["adapter_sha256"], coefficient=c)
        for row, c in members.leaves
    ]
    return fetch_sum(lake, leaves)


def _row(members: Members, method: Method, settings: Row) -> dict[str, Any]:
    rows = members.rows
    recipes, videos = {row["recipe_id"] for row in rows}, {row["video_id"] for row in rows}
    # Several recipes may share a checkpoint: their composition belongs to all of them at once.
    recipe_id = recipes.pop() if len(recipes) == 1 else identity.recipe_id({"of": sorted(recipes)})
    parts = members.parts
    is_one = len(videos) == 1
    return {
        "composition_id": identity.composition_id(
            recipe_id=recipe_id,
            method=method,
            parents=[part.member_id for part in parts],
            coefficients=[part.coefficient for part in parts],
            settings=settings,
        ),
        "recipe_id": recipe_id,
        "video_id": next(iter(videos)) if is_one else None,
        "start_us": min(row["start_us"] for row in rows) if is_one else None,
        "end_us": max(row["end_us"] for row in rows) if is_one else None,
        "parents": [row["adapter_sha256"] for row in rows],
        "coefficients": [coefficient for _, coefficient in members.leaves],
        "method": method,
        "tree": _tree(members, method, settings),
        "num_segments": len({row["adapter_key"] for row in rows}),
        "covered_us": _covered_us(rows),
        "checkpoint_sha256": rows[0]["checkpoint_sha256"],
    }


def _tree(members: Members, method: Method, settings: Row) -> str | None:
    """Write down what decided the result, and the nesting; a plain sum needs none of it."""
    if method == "concat" and not members.is_nested:
        return None
    decided: dict[str, Any] = {"method": method, **settings}
    if not members.is_nested:
        return identity.canonical_json(decided)
    decided["members"] = [
        {"coefficient": part.coefficient, "file": part.file_sha256}
        | ({} if part.tree is None else {"composition": part.member_id, "tree": dict(part.tree)})
        for part in members.parts
    ]
    return identity.canonical_json(decided)


def _covered_us(rows: Sequence[Row]) -> int:
    """Add up the time covered; what two segments share counts once."""
    total, last = 0, ("", 0)
    for row in sorted(rows, key=lambda r: (r["video_id"], r["start_us"])):
        begin = max(row["start_us"], last[1]) if row["video_id"] == last[0] else row["start_us"]
        total += max(row["end_us"] - begin, 0)
        last = (row["video_id"], max(row["end_us"], begin))
    return total


def _stored(lake: Lake, composition_id: str) -> Row | None:
    where = pc.field("composition_id") == composition_id
    rows: list[Row] = lake.catalog.read("compositions", where=where).to_pylist()
    return min(rows, key=lambda row: row["created_at"]) if rows else None
