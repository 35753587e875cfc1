"""How the gradients of a table travel between ranks, and what that costs.

Dense: an allreduce of the whole table. Sparse: each rank's touched rows, each once, to all others (allgather). Both
give the same sums; which one sends less depends on how large the table is beside what a step touches of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Way = Literal["sparse", "dense"]

_NUMBER = 4  # bytes of a float32
_INDEX = 4  # bytes of a row's index


@dataclass(frozen=True)
class Table:
    """Gradient of an embedding table.

    Parameters
    ----------
    name : str
    rows, dim : int
    touched : int, optional
        Rows that one rank touches in a step, each counted once, at most. None: the gradient is a dense one.
    """

    name: str
    rows: int
    dim: int
    touched: int | None


def bytes_per_step(table: Table, ranks: int, way: Way) -> int:
    """Bytes that each rank sends a step, at most, by the ring algorithms.

    An allreduce sends 2 (n - 1) / n times the table, with a number more a row that tells which rows were touched. An
    allgather sends each rank's rows and their indexes to all n - 1 others.
    """
    if table.touched is None:
        return 2 * (ranks - 1) * table.rows * table.dim * _NUMBER // ranks
    if way == "dense":
        return 2 * (ranks - 1) * table.rows * (table.dim + 1) * _NUMBER // ranks
    return (ranks - 1) * table.touched * (table.dim * _NUMBER + _INDEX)


def choose(table: Table, ranks: int) -> Way:
    """The way that sends less: dense where the touched rows of all ranks are about two tables or more."""
    if table.touched is None or bytes_per_step(table, ranks, "dense") < bytes_per_step(table, ranks, "sparse"):
        return "dense"
    return "sparse"


def settle(tables: list[Table], ranks: int, exchange: Literal["auto", "sparse", "dense"]) -> list[Way]:
    """Way of each table, by the setting ``exchange``."""
    return [choose(each, ranks) if exchange == "auto" or each.touched is None else exchange for each in tables]


def describe(tables: list[Table], ways: list[Way], ranks: int) -> str:
    """One line for a person: what each table's gradient costs a step."""
    parts = [
        f"{table.name} {table.rows:,} x {table.dim} {way} {bytes_per_step(table, ranks, way) / 1e6:,.3g} MB"
        for table, way in zip(tables, ways, strict=True)
    ]
    total = sum(bytes_per_step(table, ranks, way) for table, way in zip(tables, ways, strict=True))
    return f"gradients sent by a rank a step, at most: {' · '.join(parts)} · together {total / 1e6:,.3g} MB"
