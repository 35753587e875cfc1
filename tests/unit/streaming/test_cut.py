"""Runs of rows out of windows, against plain lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_spark.streaming.cut import cut


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(1, 9))
def test_rows_keep_their_order_and_only_the_last_run_is_short(sizes: list[int], size: int) -> None:
    bounds = np.cumsum([0, *sizes])
    windows = [{"a": np.arange(x, y), "b": np.arange(x, y) * 2.0} for x, y in pairwise(bounds)]
    runs = list(cut(windows, size))
    lengths = [len(run["a"]) for run in runs]
    assert all(length == size for length in lengths[:-1])
    assert all(0 < length <= size for length in lengths)
    joined = np.concatenate([np.empty(0), *(run["a"] for run in runs)])
    assert joined.tolist() == list(range(sum(sizes)))
    assert all((run["b"] == run["a"] * 2).all() for run in runs)


@pytest.mark.parametrize("size", [2, 5])
def test_whole_runs_are_not_copied(size: int) -> None:
    window = {"a": np.arange(10)}
    assert all(np.shares_memory(run["a"], window["a"]) for run in cut([window], size))


def test_a_short_rest_does_not_keep_its_window() -> None:
    """The window is large, the rest may wait for long."""
    window = {"a": np.arange(1_000)}
    *_, rest = cut([window], 999)
    assert not np.shares_memory(rest["a"], window["a"])
