"""How unequally a total is shared: the Gini index."""

from __future__ import annotations

from collections.abc import Sequence


def gini(lists: Sequence[int], items: Sequence[int], catalogue: int) -> float:
    """Gini index of how often items are shown: 0 where all are shown alike, near 1 where few are shown at all.

    Of the numbers of lists x(1) <= … <= x(M) that the items of the catalogue are in, 0 for those that are never shown:
    sum over i of (2i - M - 1) x(i), over M times their sum; whole numbers up to the last division.

    Parameters
    ----------
    lists, items : sequence of int
        So many items are in so many lists each; in any order.
    catalogue : int
        M.

    Raises
    ------
    ValueError
        More items are shown than there are.
    """
    place = catalogue - sum(items)  # items that are never shown come first and add nothing
    if place < 0:
        raise ValueError(f"{sum(items)} items are shown, the catalogue has {catalogue}")
    weighted = total = 0
    for shown, count in sorted(zip(lists, items, strict=True)):
        weighted += shown * count * (2 * place + count - catalogue)  # sum of 2i - M - 1 over its places
        place, total = place + count, total + shown * count
    return weighted / (catalogue * total) if total else 0.0
