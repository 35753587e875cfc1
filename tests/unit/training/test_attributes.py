"""Vectors by attributes: what is planted is found, and what says nothing adds nothing."""

from __future__ import annotations

import numpy as np
import pytest

from recsys_spark.training.attributes import ByAttributes, describes


def test_what_each_value_adds_is_found() -> None:
    draw = np.random.default_rng(1)
    sizes, count = [6, 9, 5], 4_000
    added = [np.vstack([np.zeros((2, 3)), draw.normal(size=(size - 2, 3))]) for size in sizes]
    codes = [draw.integers(2, size, count).astype(np.int32) for size in sizes[:2]]
    lists = np.stack([draw.integers(2, 5, count), np.zeros(count)], axis=1).astype(np.int32)
    vectors = 0.5 + sum(table[code] for table, code in zip(added, [*codes, lists[:, 0]], strict=True))
    known = slice(0, 3_000)
    fitted = ByAttributes.fit([each[known] for each in [*codes, lists]], sizes, vectors[known].astype(np.float32))
    told = fitted.tell([each[3_000:] for each in [*codes, lists]])
    assert np.abs(told - vectors[3_000:]).max() < 0.05


def test_a_rare_value_is_hardly_believed() -> None:
    codes = np.array([2] * 95 + [3] * 5, np.int32)
    vectors = np.where(codes == 3, 1.0, 0.0)[:, None].astype(np.float32)
    told = ByAttributes.fit([codes], [4], vectors).tell([np.array([0, 1, 2, 3], np.int32)])[:, 0]
    assert told[:2] == pytest.approx([0.05, 0.05])  # nothing, or never seen: the mean
    assert told[3] == pytest.approx(0.05 + 0.95 * 5 / 10)


def test_the_values_of_a_list_count_in_equal_parts() -> None:
    lists = np.array([[2, 3], [2, 0], [3, 0], [0, 0]] * 500, np.int32)
    vectors = np.array([[0.0], [-1.0], [1.0], [0.0]] * 500, np.float32)
    told = ByAttributes.fit([lists, np.full(len(lists), 2, np.int32)], [4, 3], vectors).tell(
        [lists[:4], np.full(4, 2, np.int32)]
    )
    assert told[:, 0] == pytest.approx([0.0, -1.0, 1.0, 0.0], abs=0.05)


def test_none_and_unseen_tell_nothing() -> None:
    codes = [np.array([0, 1, 2, 0], np.int32), np.array([[0, 0], [1, 1], [0, 0], [0, 5]], np.int32)]
    assert describes(codes).tolist() == [False, False, True, True]
