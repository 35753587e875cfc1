"""Bytes that travel, against a ring that is played through message by message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.training.traffic import Table, bytes_per_step, choose, describe, settle


def ring_allreduce(numbers: int, ranks: int) -> int:
    """Numbers that one rank sends: a chunk a step, n - 1 steps to add up and n - 1 to spread."""
    chunks = [numbers // ranks] * ranks
    assert sum(chunks) == numbers
    return sum(chunks[(0 - step) % ranks] for step in range(ranks - 1)) * 2


def ring_allgather(mine: int, ranks: int) -> int:
    """Bytes that one rank sends on: each step what it got last, its own first; all ranks hold the same number."""
    return sum(mine for _ in range(ranks - 1))


@given(ranks=st.integers(1, 9), per_rank=st.integers(1, 50), dim=st.integers(1, 8), touched=st.integers(0, 99))
def test_they_are_those_of_a_ring(ranks: int, per_rank: int, dim: int, touched: int) -> None:
    rows = per_rank * ranks
    table = Table("t", rows, dim, touched)
    assert bytes_per_step(table, ranks, "dense") == 4 * ring_allreduce(rows * (dim + 1), ranks)
    assert bytes_per_step(table, ranks, "sparse") == ring_allgather(touched * (4 * dim + 4), ranks)
    assert bytes_per_step(Table("t", rows, dim, None), ranks, "dense") == 4 * ring_allreduce(rows * dim, ranks)


@given(ranks=st.integers(2, 9), rows=st.integers(1, 500), dim=st.integers(1, 8), touched=st.integers(0, 500))
def test_the_choice_sends_less(ranks: int, rows: int, dim: int, touched: int) -> None:
    table = Table("t", rows, dim, touched)
    chosen = bytes_per_step(table, ranks, choose(table, ranks))
    assert chosen == min(bytes_per_step(table, ranks, way) for way in ("sparse", "dense"))


def test_a_dense_gradient_has_no_choice() -> None:
    tables = [Table("a", 10, 2, None), Table("b", 1_000_000, 2, 5), Table("c", 10, 2, 10)]
    assert settle(tables, 4, "auto") == ["dense", "sparse", "dense"]
    assert settle(tables, 4, "sparse") == ["dense", "sparse", "sparse"]
    assert settle(tables, 4, "dense") == ["dense", "dense", "dense"]


@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_one_rank_sends_nothing(way: str) -> None:
    assert bytes_per_step(Table("t", 10, 4, 5), 1, way) == 0  # type: ignore[arg-type]


def test_a_person_reads_what_each_table_costs() -> None:
    line = describe([Table("user", 1_000_000, 64, 4096), Table("deep part", 500_000, 1, None)], ["sparse", "dense"], 2)
    assert line == (
        "gradients sent by a rank a step, at most: user 1,000,000 x 64 sparse 1.06 MB · "
        "deep part 500,000 x 1 dense 2 MB · together 3.06 MB"
    )
