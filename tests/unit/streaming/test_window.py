"""Windows: every row once, whatever the order; large ones are permuted by runs of rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys_spark.streaming.quality import batch_spread, label_imbalance, neighbour_correlation
from recsys_spark.streaming.window import RUN, Window

LARGE = (1 << 18) + 5  # not a multiple of a run


def window(*sizes: int) -> Window:
    made, start = Window(["row", "wide"]), 0
    for size in sizes:
        rows = np.arange(start, start + size, dtype=np.int32)
        made.add({"row": rows, "wide": rows.astype(np.float64) / 4})
        start += size
    return made


def given(made: Window, size: int, seed: int = 1) -> NDArray[np.int32]:
    pieces = list(made.shuffled(np.random.default_rng(seed), size))
    assert all((piece["wide"] * 4 == piece["row"]).all() for piece in pieces)
    return np.concatenate([piece["row"] for piece in pieces])


@pytest.mark.parametrize("sizes", [(1,), (7, 1, 30), (RUN,), (LARGE - 3, 3)])
def test_every_row_once_in_another_order(sizes: tuple[int, ...]) -> None:
    rows = given(window(*sizes), 4_096)
    assert np.sort(rows).tolist() == list(range(sum(sizes)))
    assert sum(sizes) < 20 or (rows != np.arange(sum(sizes))).any()


def test_a_window_that_is_used_again_holds_only_the_new_rows() -> None:
    made = window(50, 60)
    made.clear()
    made.add({"row": np.arange(10, dtype=np.int32), "wide": np.arange(10) / 4})
    assert np.sort(given(made, 3)).tolist() == list(range(10))


def test_pieces_are_copies() -> None:
    made = window(100)
    for pieces in (made.shuffled(np.random.default_rng(1), 10), made.as_they_lie(10)):
        first = next(pieces)["row"]
        before = first.copy()
        made._room["row"][:] = -1
        assert (first == before).all()
        made = window(100)


def test_a_large_window_of_random_rows_is_as_random_by_runs() -> None:
    """Figures as for independent draws; two passes share runs of neighbours and no larger part of their order."""
    made = Window(["value", "label"])
    random = np.random.default_rng(5)
    values, labels = random.random(LARGE), random.integers(0, 4, LARGE)  # as featurize leaves them: in random order
    made.add({"value": values, "label": labels})
    passes = []
    for seed in (1, 2):
        pieces = list(made.shuffled(np.random.default_rng(seed), 1_024))
        passes.append({name: np.concatenate([piece[name] for piece in pieces]) for name in ("value", "label")})
    one, two = passes
    places = np.arange(LARGE) // 1_024
    assert abs(label_imbalance(one["label"], places)) < 4
    assert abs(neighbour_correlation(one["value"])) < 4
    assert 0.7 < batch_spread(one["value"], 1_024) < 1.3
    assert (one["value"][: LARGE // RUN * RUN] == two["value"][: LARGE // RUN * RUN]).mean() < 0.01


def test_neighbours_with_equal_keys_stay_together() -> None:
    made = Window(["key", "row"])
    keys = np.repeat(np.arange(40), np.random.default_rng(1).integers(1, 9, 40))
    made.add({"key": keys, "row": np.arange(len(keys))})
    pieces = list(made.shuffled_together(np.random.default_rng(2), 16, "key"))
    order = np.concatenate([piece["key"] for piece in pieces])
    assert 1 + int((order[1:] != order[:-1]).sum()) == 40
    rows = np.concatenate([piece["row"] for piece in pieces])
    assert sorted(rows.tolist()) == list(range(len(keys)))
    assert order.tolist() != keys.tolist()
