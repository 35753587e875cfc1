from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_spark.ragged import Rows

LISTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=8)


@settings(deadline=None)
@given(LISTS)
def test_rows_give_back_the_lists(lists: list[list[int]]) -> None:
    rows = Rows.from_lists(lists)
    assert len(rows) == len(lists)
    assert [rows.row(i).tolist() for i in range(len(rows))] == lists
    assert rows.lengths.tolist() == [len(each) for each in lists]
    assert rows.owners.tolist() == [i for i, each in enumerate(lists) for _ in each]
    assert (rows.indptr.dtype, rows.indices.dtype) == (np.int64, np.int32)


@settings(deadline=None)
@given(LISTS)
def test_pairs_and_lists_agree(lists: list[list[int]]) -> None:
    pairs = [(i, value) for i, each in enumerate(lists) for value in each]
    rows = Rows.from_pairs([row for row, _ in pairs], [value for _, value in pairs], len(lists))
    expected = Rows.from_lists(lists)
    np.testing.assert_array_equal(rows.indptr, expected.indptr)
    np.testing.assert_array_equal(rows.indices, expected.indices)


@settings(deadline=None)
@given(LISTS, st.data())
def test_a_part_holds_its_rows(lists: list[list[int]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists)))
    part = Rows.from_lists(lists).part(start, stop)
    assert [part.row(i).tolist() for i in range(len(part))] == lists[start:stop]


def test_empty_rows() -> None:
    assert len(Rows.empty(0)) == 0
    assert Rows.empty(3).lengths.tolist() == [0, 0, 0]


@pytest.mark.parametrize("indptr", [[], [1, 2], [0, 2, 1], [0, 1], [0, 3]])
def test_wrong_bounds_are_refused(indptr: list[int]) -> None:
    with pytest.raises(ValueError, match="indptr must"):
        Rows(np.array(indptr, np.int64), np.array([5, 6], np.int32))


@pytest.mark.parametrize("rows", [[1, 0], [0, 2], [-1, 0]])
def test_wrong_pairs_are_refused(rows: list[int]) -> None:
    with pytest.raises(ValueError, match="rise within"):
        Rows.from_pairs(rows, [7, 7], 2)


def test_a_pair_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        Rows.from_pairs([0, 1], [7], 2)


@pytest.mark.parametrize("i", [-1, 1])
def test_a_row_that_is_not_there(i: int) -> None:
    with pytest.raises(IndexError, match="of 1"):
        Rows.from_lists([[4]]).row(i)


@pytest.mark.parametrize("value", [-1, 3])
def test_range_of_the_indices(value: int) -> None:
    Rows.from_lists([[0, 2]]).require_below(3, "items")
    Rows.empty(2).require_below(0, "items")
    with pytest.raises(ValueError, match=r"items must lie in \[0, 3\)"):
        Rows.from_lists([[0, value]]).require_below(3, "items")


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_pairs_are_found_where_they_are(lists: list[list[int]], seed: int) -> None:
    """Rows in any order, with repeats; values that no row has, and -1."""
    draw = np.random.default_rng(seed)
    rows, values = draw.integers(0, len(lists), (4, 5)), draw.integers(-1, 13, (4, 5))
    expected = [[v in lists[r] for r, v in zip(*pair, strict=True)] for pair in zip(rows, values, strict=True)]
    assert Rows.from_lists(lists).holds(rows, values).tolist() == expected
    assert not Rows.empty(len(lists)).holds(rows, values).any()


def test_some_rows_in_another_order() -> None:
    rows = Rows.from_lists([[3, 1], [], [7], [2, 2, 9]])
    taken = rows.take(np.array([3, 1, 0, 3]))
    assert [taken.row(i).tolist() for i in range(4)] == [[2, 2, 9], [], [3, 1], [2, 2, 9]]
    assert len(rows.take(np.array([], np.int64))) == 0
