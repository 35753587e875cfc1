"""Field tables, and how a DeepFM pools weighted codes and takes dense values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables

CODES = np.array([[2, 3, 4], [2, 3, 0], [5, 0, 0], [0, 0, 0]], np.int32)
NUMBERS = torch.tensor([[0.5], [1.5], [float("nan")], [2.0]])
ROWS = torch.arange(4)


def _model(lengths: list[int], dense: int = 0) -> DeepFM:
    torch.manual_seed(1)
    made = DeepFM(DeepFMSpec([6] * len(lengths), lengths, 1, 4, 3, [5], 0.0, dense))
    torch.nn.init.normal_(made.first.weight)
    torch.nn.init.normal_(made.embedding.weight)
    made.fit_numbers(torch.arange(20.0).unsqueeze(1) / 10)
    return made.eval()


def _tables(weights: Any = None, dense: Any = None) -> FieldTables:
    empty = SideTables([np.zeros(4, np.int32)])
    return FieldTables(empty, SideTables([CODES], [weights] if weights is not None else [], dense))


@pytest.mark.parametrize("equal", [1.0, 0.37, 9.0])
def test_equal_weights_pool_as_none_do(equal: float) -> None:
    model = _model([1, 3])
    weighted = _tables(np.where(CODES > 0, np.float32(equal), np.float32(0)))
    with torch.no_grad():
        plain = model(numbers=NUMBERS, **_tables().inputs(ROWS, ROWS))
        pooled = model(numbers=NUMBERS, **weighted.inputs(ROWS, ROWS))
    assert torch.allclose(plain, pooled, atol=1e-6)


def test_pooling_is_the_weighted_mean() -> None:
    weights = np.array([[4, 2, 1], [3, 1, 9], [5, 0, 0], [0, 0, 0]], np.float32)
    model = _model([1, 3])
    inputs = _tables(weights).inputs(ROWS, ROWS)
    with torch.no_grad():
        vectors, firsts = model._embed(inputs["codes"], NUMBERS, inputs["weights"])
    table, first = (
        model.embedding.weight.detach()[6:12],
        model.first.weight.detach()[6:12, 0],
    )  # the second field's rows
    for row in range(4):
        kept = [(int(code), float(w)) for code, w in zip(CODES[row], weights[row], strict=True) if code]
        total = sum(w for _, w in kept) or 1.0
        pooled = sum((w / total * table[code] for code, w in kept), torch.zeros(3))
        assert torch.allclose(vectors[row, -1], pooled, atol=1e-6)
        assert float(firsts[row, -1]) == pytest.approx(
            sum(w / total * float(first[code]) for code, w in kept), abs=1e-6
        )


def test_dense_values_enter_the_first_order_and_the_deep_part() -> None:
    dense = np.array([[0.5, -1.0], [2.0, np.nan], [np.nan, np.nan], [0.0, 0.0]], np.float32)
    model = _model([1, 3], dense=2)
    torch.nn.init.normal_(model.slope)
    tables = _tables(dense=dense)
    assert tables.dense == 2
    with torch.no_grad():
        inputs = tables.inputs(ROWS, ROWS)
        got = model(numbers=NUMBERS, **inputs)
        embedded, linear = model._embed(inputs["codes"], NUMBERS, inputs["weights"])
        known = torch.cat([torch.from_numpy(np.nan_to_num(dense)), torch.from_numpy(np.isnan(dense)).float()], dim=1)
        total = embedded.sum(1)
        second = 0.5 * (total**2 - (embedded**2).sum(1)).sum(1)
        deep = model.deep(torch.cat([embedded.flatten(1), model.quantiles(NUMBERS), known], dim=1)).squeeze(1)
        assert torch.allclose(got, model.intercept + linear.sum(1) + known @ model.slope + second + deep, atol=1e-5)
    assert torch.isfinite(got).all()


def test_a_model_without_dense_values_has_no_weights_for_them() -> None:
    assert "slope" not in _model([1, 3]).state_dict()
    assert _tables().inputs(ROWS, ROWS)["values"] is None


def test_a_side_may_have_no_fields_at_all() -> None:
    dense = np.ones((4, 1), np.float32)
    tables = FieldTables(SideTables([]), SideTables([CODES], dense=dense))
    inputs = tables.inputs(ROWS + 100, ROWS)
    assert [tuple(code.shape) for code in inputs["codes"]] == [(4, 3)]
    assert tuple(inputs["values"].shape) == (4, 1)
