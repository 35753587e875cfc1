"""Windows: every row once, whatever the order; large ones are permuted by runs of rows; both ways give the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_spark.native import rows_library
from recsys_spark.streaming import window as module
from recsys_spark.streaming.batch import Layout
from recsys_spark.streaming.quality import batch_spread, label_imbalance, neighbour_correlation
from recsys_spark.streaming.window import RUN, Columns, Window

LARGE = (1 << 18) + 5  # not a multiple of a run
Order = Callable[[Window, np.random.Generator], None]


@pytest.fixture(params=["compiled", "NumPy"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "NumPy":
        monkeypatch.setattr(module, "rows_library", lambda: None)
    elif rows_library() is None:
        pytest.skip("the compiled part is not built here")


both_ways = pytest.mark.usefixtures("_way")


def window(*sizes: int) -> Window:
    made, start = Window(["row", "wide", "tiny"]), 0
    for size in sizes:
        rows = np.arange(start, start + size, dtype=np.int32)
        made.add({"row": rows, "wide": rows.astype(np.float64) / 4, "tiny": (rows % 7).astype(np.int8)})
        start += size
    return made


def taken(made: Window, size: int) -> Columns:
    """All rows in the window's order, by pieces of ``size``."""
    layout, found = Layout(made.kinds(), size), []
    for start in range(0, made.rows, size):
        rows, block = min(size, made.rows - start), layout.block()
        middle = rows // 2  # a batch may be filled bit by bit
        made.take(start, middle, layout, block, 0)
        made.take(start + middle, rows - middle, layout, block, middle)
        found.append({name: each[:rows].numpy() for name, each in layout.tensors(block).items()})
    return {name: np.concatenate([piece[name] for piece in found]) for name in made.names}


@both_ways
@pytest.mark.parametrize("sizes", [(1,), (7, 1, 30), (RUN,), (0, 5, 0, 4), (LARGE - 3, 3), (LARGE // 2, 5, LARGE // 2)])
def test_every_row_once_in_another_order(sizes: tuple[int, ...]) -> None:
    made = window(*sizes)
    made.shuffle(np.random.default_rng(1))
    found = taken(made, 4_096)
    assert (found["wide"] * 4 == found["row"]).all()
    assert (found["row"] % 7 == found["tiny"]).all()
    assert np.array_equal(np.sort(found["row"]), np.arange(sum(sizes)))
    assert sum(sizes) < 20 or (found["row"] != np.arange(sum(sizes))).any()


@both_ways
def test_as_they_lie() -> None:
    made = window(5, 9, 1)
    made.as_they_lie()
    assert taken(made, 4)["row"].tolist() == list(range(15))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(sum), st.integers(1, 50), st.integers(0, 3))
def test_compiled_and_numpy_give_the_same(sizes: list[int], size: int, kind: int) -> None:
    """Runs that cross the bounds of parts, and of batches, are among them."""
    if rows_library() is None:
        pytest.skip("the compiled part is not built here")
    keys = np.random.default_rng(3).integers(0, 3, sum(sizes))
    orders: list[Order] = [
        lambda made, _: made.as_they_lie(),
        lambda made, generator: made.shuffle(generator),
        lambda made, generator: made.shuffle_together(generator, "key"),
        lambda made, generator: made.shuffle_together(generator, "row"),
    ]
    found = []
    for compiled in (True, False):
        made, start = Window(["row", "key"]), 0
        for each in sizes:
            made.add({"row": np.arange(start, start + each), "key": np.sort(keys[start : start + each])})
            start += each
        if not compiled:
            made._library = None
        orders[kind](made, np.random.default_rng(5))
        found.append(taken(made, size))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in ("row", "key"))
    assert np.array_equal(np.sort(found[0]["row"]), np.arange(sum(sizes)))


def test_files_are_not_copied_and_batches_are_copies() -> None:
    rows = np.arange(100)
    made = Window(["row"])
    made.add({"row": rows})
    assert np.shares_memory(made.parts[0]["row"], rows)
    made.as_they_lie()
    found = taken(made, 100)["row"]
    rows[:] = -1
    assert found.tolist() == list(range(100))


@pytest.mark.parametrize("other", [np.arange(3.0), np.arange(3), np.zeros((3, 4), "i4"), np.zeros(2, "i4")])
def test_what_would_be_read_as_something_else_is_refused(other: NDArray[np.generic]) -> None:
    made = Window(["row", "other"])
    good = np.arange(3, dtype=np.int32)
    made.add({"row": good, "other": good})
    with pytest.raises(ValueError, match=r"column 'other' is .*, not int32"):
        made.add({"row": good, "other": other})
    assert made.rows == 3


@both_ways
def test_a_large_window_of_random_rows_is_as_random_by_runs() -> None:
    """Figures as for independent draws; two passes share runs of neighbours and no larger part of their order."""
    random = np.random.default_rng(5)
    made = Window(["value", "label"])
    made.add({"value": random.random(LARGE), "label": random.integers(0, 4, LARGE)})  # in random order, as in the files
    passes = []
    for seed in (1, 2):
        made.shuffle(np.random.default_rng(seed))
        passes.append(taken(made, 1_024))
    one, two = passes
    assert abs(label_imbalance(one["label"], np.arange(LARGE) // 1_024)) < 4
    assert abs(neighbour_correlation(one["value"].astype(np.float64))) < 4
    assert 0.7 < batch_spread(one["value"].astype(np.float64), 1_024) < 1.3
    assert (one["value"] == two["value"]).mean() < 0.01


@both_ways
def test_neighbours_with_equal_keys_stay_together() -> None:
    made = Window(["key", "row"])
    keys = np.repeat(np.arange(40), np.random.default_rng(1).integers(1, 9, 40))
    cut = len(keys) // 2
    for some in (slice(None, cut), slice(cut, None)):
        made.add({"key": keys[some], "row": np.arange(len(keys))[some]})
    made.shuffle_together(np.random.default_rng(2), "key")
    found = taken(made, 16)
    assert 1 + int((found["key"][1:] != found["key"][:-1]).sum()) == 40
    assert np.array_equal(np.sort(found["row"]), np.arange(len(keys)))
    assert found["key"].tolist() != keys.tolist()


def test_the_columns_of_a_batch_are_apart_in_one_block() -> None:
    layout = Layout({"a": np.dtype("i4"), "b": np.dtype("f8"), "c": np.dtype("?"), "d": np.dtype("i4")}, 5)
    block = layout.block()
    tensors = layout.tensors(block)
    assert {name: (each.dtype, tuple(each.shape)) for name, each in tensors.items()} == {
        "a": (torch.int32, (5,)),
        "b": (torch.float64, (5,)),
        "c": (torch.bool, (5,)),
        "d": (torch.int32, (5,)),
    }
    for number, (name, each) in enumerate(tensors.items(), 2):
        each.fill_(number % 2 if name == "c" else number)
    found = {name: each.unique().tolist() for name, each in tensors.items()}
    assert found == {"a": [2], "d": [3], "b": [4.0], "c": [True]}
    starts = [each.data_ptr() - block.data_ptr() for each in tensors.values()]
    assert starts == layout.places(list(tensors)).tolist()
