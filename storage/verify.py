"""Is a lake whole? Row -> file -> sha256 -> shapes -> finite, and do the segments tile each video?

Every fault is named with its file or row and with what to do. Files that no row names are counted,
not faults: gc takes them. Checking only reads, so it may run while writers do; a video whose run is
not published yet is in work, and its gaps are no faults.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage import adapter_store, plans
from storage.adapter_store import FOLDER, AdapterStore
from storage.catalog import Catalog
from storage.errors import AdapterIntegrityError, ObjectError, ObjectMissingError, StorageError
from storage.faults import Checked
from storage.garbage import Listing, referenced_files
from storage.lookups import deleted_videos
from storage.object_store import ObjectStore
from storage.tensor_header import disagreements, not_finite, read_header
from storage.verify_tables import check_tables
from storage.verify_tokens import check_tokens

_COLUMNS: Final = (
    "adapter_key", "adapter_sha256", "video_id", "rank", "layers", "modules", "dtype",
    "checkpoint_sha256", "size_bytes",
)  # fmt: skip
_AGAIN: Final = (
    "restore it from a copy; or delete its video, undo that (delete --undo) and internalize again"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LakeParts:
    """What a check reads."""

    catalog: Catalog
    objects: ObjectStore
    listing: Listing
    filesystem: fsspec.AbstractFileSystem


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """How much of a lake to check."""

    video_id: str | None = None
    """Only this video's rows and files."""
    num_sampled: int | None = None
    """Read only so many adapter files, drawn at random."""
    is_quick: bool = False
    """Look whether files are there and of the right size; do not read them."""
    seed: int = 0


def verify(lake: LakeParts, scope: Scope) -> Checked:
    """Check a lake and return what is wrong with it."""
    checked = Checked()
    readable = check_tables(lake.catalog, lake.filesystem, checked, is_quick=scope.is_quick)
    if "adapters" in readable:
        _check_adapters(lake, scope, checked)
        if {"videos", "rejects", "tombstones", "runs"} <= readable:
            _check_coverage(lake, scope, checked)
        if "compositions" in readable:
            _check_compositions(lake, scope, checked)
            _check_checkpoints(lake, scope, checked)
    if scope.video_id is None:
        _check_plans(lake, checked)
        if {"adapters", "compositions"} <= readable:
            _count_orphans(lake, checked)
    check_tokens(
        lake.objects,
        lake.listing,
        checked,
        video_id=scope.video_id,
        num_sampled=scope.num_sampled,
        is_quick=scope.is_quick,
        seed=scope.seed,
    )
    return checked


def _where(scope: Scope) -> pc.Expression | None:
    return None if scope.video_id is None else pc.field("video_id") == scope.video_id


def _check_adapters(lake: LakeParts, scope: Scope, checked: Checked) -> None:
    rows = lake.catalog.read("adapters", columns=_COLUMNS, where=_where(scope))
    checked.counts["adapter_rows"] = rows.num_rows
    _check_doubled(lake, scope, checked)
    if scope.num_sampled is not None and scope.num_sampled < rows.num_rows:
        drawn = np.random.default_rng(scope.seed).choice(rows.num_rows, scope.num_sampled, False)
        rows = rows.take(pa.array(np.sort(drawn)))
    store = AdapterStore(lake.objects)
    for some in rows.to_batches(max_chunksize=1024):
        for row in some.to_pylist():
            checked.counts["adapters"] += 1
            _check_adapter(lake, store, row, scope, checked)


def _check_doubled(lake: LakeParts, scope: Scope, checked: Checked) -> None:
    place = ["run_id", "shard", "unit", "adapter_key"]
    rows = lake.catalog.read("adapters", columns=place, where=_where(scope))
    counted = rows.group_by(place).aggregate([([], "count_all")])
    for row in counted.filter(pc.field("count_all") > 1).to_pylist():
        checked.add(
            "doubled_row",
            f"adapters row {row['adapter_key']}",
            f"unit {row['unit']} of run {row['run_id'][:12]} has it {row['count_all']} times",
            "views show it once; two compactions at once cause it: run them through video2lora",
        )


def _check_adapter(
    lake: LakeParts, store: AdapterStore, row: Mapping[str, Any], scope: Scope, checked: Checked
) -> None:
    where = store.uri(row["adapter_sha256"])
    if scope.is_quick:
        _check_size(lake, where, row, checked)
        return
    try:
        data = store.get(row["adapter_sha256"])
    except ObjectMissingError:
        checked.add("adapter_missing", where, _named_by(row), _AGAIN)
    except AdapterIntegrityError as error:
        checked.add("adapter_changed", where, str(error), _AGAIN)
    except ObjectError as error:
        checked.add("adapter_missing", where, str(error), "check the store and its rights")
    else:
        _check_content(where, data, row, checked)


def _named_by(row: Mapping[str, Any]) -> str:
    return f"it is not there, though row {row['adapter_key'][:12]} of adapters names it"


def _check_size(lake: LakeParts, where: str, row: Mapping[str, Any], checked: Checked) -> None:
    sha256 = row["adapter_sha256"]
    file = lake.listing.file(f"{FOLDER}/{sha256[:2]}/{sha256}.safetensors")
    if file is None:
        checked.add("adapter_missing", where, _named_by(row), _AGAIN)
    elif file.size_bytes != row["size_bytes"]:
        said = f"it has {file.size_bytes} bytes, expected {row['size_bytes']}"
        checked.add("adapter_changed", where, said, _AGAIN)


def _check_content(where: str, data: bytes, row: Mapping[str, Any], checked: Checked) -> None:
    try:
        header = read_header(data)
    except ValueError as error:
        checked.add("adapter_shape", where, str(error), _AGAIN)
        return
    for said in disagreements(header, row):
        checked.add("adapter_shape", where, said, "read it with the release that wrote it")
    for name in not_finite(header, data):
        checked.add("adapter_not_finite", where, f"{name} holds an infinity or a NaN", _AGAIN)


def _check_compositions(lake: LakeParts, scope: Scope, checked: Checked) -> None:
    columns = ["composition_id", "parents", "adapter_sha256"]
    # Parents are committed before their composition: what is read later holds all of them.
    rows = lake.catalog.read("compositions", columns=columns, where=_where(scope)).to_pylist()
    known = set(lake.catalog.read("adapters", columns=["adapter_sha256"])[0].to_pylist())
    store = AdapterStore(lake.objects)
    for row in rows:
        checked.counts["compositions"] += 1
        where = f"compositions row {row['composition_id']}"
        for parent in sorted(set(row["parents"]) - known):
            fix = "`video2lora gc` removes compositions whose parents were deleted"
            checked.add("parent_missing", where, f"no adapter {parent} is in the catalog", fix)
        if row["adapter_sha256"] is not None and not scope.is_quick:
            try:
                store.get(row["adapter_sha256"])
            except ObjectError as error:
                checked.add("adapter_changed", where, str(error), "compose it again")


def _check_checkpoints(lake: LakeParts, scope: Scope, checked: Checked) -> None:
    named: set[str] = set()
    for table in ("adapters", "compositions"):
        rows = lake.catalog.read(table, columns=["checkpoint_sha256"], where=_where(scope))
        named.update(rows["checkpoint_sha256"].unique().to_pylist())
    for sha256 in sorted(named):
        checked.counts["checkpoints"] += 1
        try:
            if scope.is_quick:
                adapter_store.require_checkpoint(lake.objects, sha256)
            else:
                adapter_store.get_checkpoint(lake.objects, sha256)
        except StorageError as error:
            fix = "copy the checkpoint's files into the lake again: internalizing puts them there"
            checked.add("checkpoint", lake.objects.uri(f"checkpoints/{sha256}"), str(error), fix)


def _check_plans(lake: LakeParts, checked: Checked) -> None:
    for name in lake.objects.names("plans"):
        checked.counts["plans"] += 1
        run_id = name.rpartition("/")[2].removesuffix(".parquet")
        try:
            plans.get_plan(lake.objects, run_id)
        except StorageError as error:
            fix = "delete it: it is only needed to go on with its run"
            checked.add("plan", lake.objects.uri(name), str(error), fix)


def _count_orphans(lake: LakeParts, checked: Checked) -> None:
    files = [file.name for file in lake.listing.files(FOLDER)]
    wanted = referenced_files(lake.catalog)
    stems = (name.rpartition("/")[2].partition(".")[0] for name in files)
    checked.counts["orphans"] = sum(stem not in wanted for stem in stems)


def _check_coverage(lake: LakeParts, scope: Scope, checked: Checked) -> None:
    columns = ["video_id", "recipe_id", "duration_us", "run_id"]
    videos = lake.catalog.read("videos", columns=columns, where=_where(scope)).to_pylist()
    deleted = deleted_videos(lake.catalog)
    done = pc.field("event") == "published"
    published = set(lake.catalog.read("runs", columns=["run_id"], where=done)[0].to_pylist())
    spans = _spans(lake.catalog, scope)
    longest: dict[tuple[str, str], int] = {}
    in_work: set[tuple[str, str]] = set()
    for row in videos:
        pair = (row["video_id"], row["recipe_id"])
        longest[pair] = max(longest.get(pair, 0), row["duration_us"])
        if row["run_id"] not in published:
            in_work.add(pair)
    for pair, duration_us in sorted(longest.items()):
        if pair[0] in deleted:
            continue
        checked.counts["videos"] += 1
        gaps, overlaps = untiled(spans.get(pair, ()), duration_us)
        where = f"video {pair[0]} under recipe {pair[1]}"
        for start_us, end_us in overlaps:
            said = f"two segments cover [{start_us}, {end_us}) us"
            checked.add("coverage_overlap", where, said, "delete the video and internalize again")
        if gaps and pair in in_work:
            checked.counts["videos_in_work"] += 1
        elif gaps:
            said = "; ".join(f"nothing covers [{start}, {end}) us" for start, end in gaps[:5])
            checked.add("coverage_gap", where, said, "internalize its corpus again")


def _spans(catalog: Catalog, scope: Scope) -> dict[tuple[str, str], set[tuple[int, int]]]:
    """The spans that have an adapter or a reject, by video and recipe."""
    columns = ["video_id", "recipe_id", "start_us", "end_us"]
    spans: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for table in ("adapters", "rejects"):
        where = pc.field("adapter_key").is_valid()
        if scope.video_id is not None:
            where = where & (pc.field("video_id") == scope.video_id)
        rows = catalog.read(table, columns=columns, where=where)
        for video_id, recipe_id, start_us, end_us in zip(
            *(rows[name].to_pylist() for name in columns), strict=True
        ):
            spans.setdefault((video_id, recipe_id), set()).add((start_us, end_us))
    return spans


def untiled(
    spans: Collection[tuple[int, int]], duration_us: int
) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
    """Return the gaps and the overlaps of spans that should tile [0, duration_us)."""
    gaps, overlaps, end = [], [], 0
    for start_us, end_us in sorted(spans):
        if start_us > end:
            gaps.append((end, start_us))
        if start_us < end:
            overlaps.append((start_us, min(end, end_us)))
        end = max(end, end_us)
    if end < duration_us:
        gaps.append((end, duration_us))
    if end > duration_us:
        overlaps.append((duration_us, end))
    return gaps, overlaps
