"""The commit of a unit: adapters first, the closing row last, each table exactly once.

Every table takes one append with the transaction (`<run_id>:<shard>`, unit number), so an attempt
that died between two tables is completed by the next one. The first append of the adapters decides
what the unit consists of: a later attempt drops its own adapters and builds the other tables'
rows from the committed ones, which is why those rows may be given as functions. Adapters that a
dead run left in a unit it never closed are taken over by key instead of being made twice.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

import pyarrow.compute as pc

from storage.adapter_store import AdapterStore
from storage.catalog import Catalog
from storage.errors import RowError, UnitOrderError
from storage.lookups import count_rejects
from storage.schemas import COMMIT_ORDER, Row, table_schema

RowsOf = Callable[[Sequence[Row]], Sequence[Row]]
UnitRows = Mapping[str, Sequence[Row] | RowsOf]
Outcome = Literal["committed", "already"]

_UNIT: Final = ("run_id", "shard", "unit")


class UnitCommitter:
    """Commits the units of one lake, strictly in the order of their numbers."""

    def __init__(self, catalog: Catalog, adapters: AdapterStore) -> None:
        """Write to `catalog`; the adapters' files are already in `adapters`."""
        self._catalog = catalog
        self._adapters = adapters
        self._orphans: dict[tuple[str, str], dict[str, Row]] = {}

    def commit(self, *, run_id: str, shard: int, unit: int, rows: UnitRows, common: Row) -> Outcome:
        """Commit one unit; see Lake.commit_unit."""
        transaction = (f"{run_id}:{shard}", unit)
        closed = self._catalog.committed("runs", transaction[0])
        if closed >= unit:
            self._check_same_unit(rows, run_id=run_id, shard=shard, unit=unit)
            return "already"
        _check_unit(rows, run_id=run_id, shard=shard, unit=unit, closed=closed)
        common = {**common, "run_id": run_id, "shard": shard, "unit": unit}
        own = _filled("adapters", _given(rows, "adapters", ()), common)
        committed = self._commit_adapters(own, common, transaction)
        tables = _later_rows(rows, committed, common)
        tables["rejects"] = self._counted(tables["rejects"], common)
        _check_segments(tables["segments"], committed, transaction)
        for table in COMMIT_ORDER[1:-1]:
            if tables[table]:
                self._catalog.append(table, tables[table], transaction=transaction)
        closing = _closing_row(rows, committed, tables, common)
        is_ours = self._catalog.append("runs", [closing], transaction=transaction)
        self._adapters.settle(row["adapter_sha256"] for row in [*committed, *own])
        return "committed" if is_ours else "already"

    def _check_same_unit(self, rows: UnitRows, **place: Any) -> None:
        own = {row["adapter_key"] for row in _given(rows, "adapters", ())}
        if not own:
            return
        where = _same_unit(place)
        closed = self._catalog.read("segments", columns=["adapter_key"], where=where)
        if not own <= set(closed["adapter_key"].to_pylist()):
            raise UnitOrderError(
                f"unit {place['unit']} of shard {place['shard']} of run {place['run_id'][:12]}: it "
                "was closed with other segments; cut the units of a run the same in every attempt"
            )

    def _commit_adapters(
        self, own: Sequence[Row], common: Row, transaction: tuple[str, int]
    ) -> list[Row]:
        keys = {row["adapter_key"] for row in own}
        taken = self._left_behind(common, keys)
        fresh = [row for row in own if row["adapter_key"] not in taken]
        self._adapters.require(row["adapter_sha256"] for row in fresh)
        # Appended even when empty: the first attempt to get here decides, also that there are none.
        if self._catalog.append("adapters", fresh, transaction=transaction):
            return [*taken.values(), *fresh]
        self._orphans.clear()
        committed = self._catalog.read("adapters", where=_same_unit(common)).to_pylist()
        known = {row["adapter_key"] for row in committed}
        taken = self._left_behind(common, keys - known)
        return [*committed, *taken.values()]

    def _counted(self, rejects: list[Row], common: Row) -> list[Row]:
        """Say of each reject how often its recipe has tried that input."""
        if all("attempt" in row for row in rejects):
            return rejects
        before = count_rejects(
            self._catalog,
            str(common["recipe_id"]),
            adapter_keys=[row["adapter_key"] for row in rejects if row.get("adapter_key")],
            source_ids=[row["source_id"] for row in rejects if not row.get("adapter_key")],
            except_unit=(common["run_id"], common["shard"], common["unit"]),
        )
        return [
            {"attempt": before[row.get("adapter_key") or row["source_id"]] + 1, **row}
            for row in rejects
        ]

    def _left_behind(self, common: Row, keys: set[str]) -> dict[str, Row]:
        recipe_id, run_id = common.get("recipe_id"), common["run_id"]
        if recipe_id is None or not keys:
            return {}
        if (recipe_id, run_id) not in self._orphans:
            self._orphans[recipe_id, run_id] = self._read_orphans(recipe_id, run_id)
        orphans = self._orphans[recipe_id, run_id]
        return {key: orphans[key] for key in sorted(keys & orphans.keys())}

    def _read_orphans(self, recipe_id: str, run_id: str) -> dict[str, Row]:
        where = (pc.field("recipe_id") == recipe_id) & (pc.field("run_id") != run_id)
        places = self._catalog.read("adapters", columns=_UNIT, where=where)
        places = places.group_by(list(_UNIT)).aggregate([])
        closed = self._catalog.read("runs", columns=_UNIT, where=pc.field("event") == "unit")
        orphans: dict[str, Row] = {}
        for place in places.join(closed, keys=list(_UNIT), join_type="left anti").to_pylist():
            for row in self._catalog.read("adapters", where=_same_unit(place)).to_pylist():
                best = orphans.get(row["adapter_key"], row)
                orphans[row["adapter_key"]] = min(row, best, key=lambda r: r["adapter_sha256"])
        return orphans


def _same_unit(place: Row) -> pc.Expression:
    here: pc.Expression = pc.field("run_id") == place["run_id"]
    return here & (pc.field("shard") == place["shard"]) & (pc.field("unit") == place["unit"])


def _check_unit(rows: UnitRows, *, run_id: str, shard: int, unit: int, closed: int) -> None:
    where = f"unit {unit} of shard {shard} of run {run_id[:12]}"
    if unit != closed + 1:
        raise UnitOrderError(f"{where}: unit {closed + 1} comes first; commit units in plan order")
    unknown = sorted(set(rows) - set(COMMIT_ORDER))
    if unknown:
        raise RowError(f"{where}: no table {', '.join(unknown)}; see storage/columns.py")
    if callable(rows.get("adapters")):
        raise RowError(f"{where}: adapters are given as rows, only later tables as functions")
    if len(_given(rows, "runs", ())) > 1:
        raise RowError(f"{where}: a unit is closed by one row of runs; give one or none")


def _given(rows: UnitRows, table: str, committed: Sequence[Row]) -> Sequence[Row]:
    given = rows.get(table, ())
    return given(committed) if callable(given) else given


def _filled(table: str, rows: Iterable[Row], common: Row) -> list[Row]:
    names = set(table_schema(table).names)
    shared = {name: value for name, value in common.items() if name in names}
    return [{**shared, **row} for row in rows]


def _later_rows(rows: UnitRows, committed: Sequence[Row], common: Row) -> dict[str, list[Row]]:
    tables = COMMIT_ORDER[1:-1]
    return {table: _filled(table, _given(rows, table, committed), common) for table in tables}


def _check_segments(
    segments: Sequence[Row], committed: Sequence[Row], transaction: tuple[str, int]
) -> None:
    keys = {row["adapter_key"] for row in committed}
    for row in segments:
        if row["outcome"] == "adapter" and row["adapter_key"] not in keys:
            raise UnitOrderError(
                f"unit {transaction[1]} of {transaction[0]}: segment {row['adapter_key'][:12]} has "
                "no committed adapter (an earlier attempt decided otherwise); give the segments "
                "as a function of the committed adapters, and record it as a reject to try again"
            )


def _closing_row(
    rows: UnitRows, committed: Sequence[Row], tables: Mapping[str, Sequence[Row]], common: Row
) -> Row:
    counted: dict[str, Any] = {
        "event": "unit",
        "num_segments": len(tables["segments"]),
        "num_adapters": len(committed),
        "num_rejects": len(tables["rejects"]),
        "covered_us": sum(row["end_us"] - row["start_us"] for row in committed),
        "device_s": sum(row.get("device_s") or 0.0 for row in committed),
        "decode_s": sum(row.get("decode_s") or 0.0 for row in tables["segments"]),
    }
    given = _given(rows, "runs", committed)
    return _filled("runs", [{**counted, **(given[0] if given else {})}], common)[0]


__all__ = ["Outcome", "RowsOf", "UnitCommitter", "UnitRows"]
