"""Which rows of a batch use which adapter, laid out for one batched matrix product.

Questions about the same video share an adapter, and decoding is bound by the bytes it reads: so
each adapter's factors stand in the product once, with its rows side by side, and not once a row.
A slot holds up to `width` rows of one adapter. The width is the rows per adapter, rounded up:
then neither slots nor places are more than twice what an even batch needs, however uneven it is.

    rows    0 1 2 3 4          slots   0: [0, 3]   1: [1, -]   2: [2, 4]
    adapter a b c a c          (- is filled with a row whose result nobody reads)
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class RowGroups:
    """The slots of a batch."""

    slot_adapters: tuple[int, ...]
    """The adapter of each slot."""
    width: int
    """Places of each slot."""
    place_rows: tuple[int, ...]
    """The row in each place, slot after slot; 0 where the place is empty."""
    row_places: tuple[int, ...]
    """The place of each row."""
    row_adapters: tuple[int, ...]
    """The adapter of each row."""

    @property
    def is_plain(self) -> bool:
        """Say whether slot i holds row i and nothing else."""
        return self.width == 1 and self.row_places == tuple(range(len(self.row_places)))


def group_rows(row_adapters: Sequence[int]) -> RowGroups:
    """Lay rows out in slots; `row_adapters` names each row's adapter."""
    rows_of: dict[int, list[int]] = {}
    for row, adapter in enumerate(row_adapters):
        rows_of.setdefault(adapter, []).append(row)
    width = -(-len(row_adapters) // max(1, len(rows_of)))
    slot_adapters: list[int] = []
    place_rows: list[int] = []
    row_places = [0] * len(row_adapters)
    for adapter, rows in rows_of.items():
        for start in range(0, len(rows), width):
            slot = rows[start : start + width]
            for row in slot:
                row_places[row] = len(place_rows)
                place_rows.append(row)
            place_rows += [0] * (width - len(slot))
            slot_adapters.append(adapter)
    return RowGroups(
        slot_adapters=tuple(slot_adapters),
        width=width,
        place_rows=tuple(place_rows),
        row_places=tuple(row_places),
        row_adapters=tuple(row_adapters),
    )
