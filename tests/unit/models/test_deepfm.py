"""DeepFM against the sums of the paper, written out in plain loops."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from recsys_spark.models.deepfm import FIRST_BUCKET, DeepFM, DeepFMSpec, _Interactions

SPEC = DeepFMSpec(sizes=[5, 7, 4], lengths=[1, 3, 1], numbers=2, buckets=4, dim=3, hidden=[6, 5], dropout=0.0)


@pytest.fixture
def model() -> DeepFM:
    torch.manual_seed(3)
    made = DeepFM(SPEC)
    torch.nn.init.normal_(made.first.weight)
    torch.nn.init.normal_(made.embedding.weight)
    made.fit_numbers(torch.tensor([[float(i), float(i * i)] for i in range(101)]))
    return made.eval()


def _field_rows(model: DeepFM, codes: list[list[int]], numbers: list[float]) -> list[list[int]]:
    """Rows of the embedding table for each field of one example; none for an empty list."""
    starts = [0, 5, 12, 16, 16 + SPEC.buckets + FIRST_BUCKET]
    rows = []
    for field, values in enumerate(codes):
        kept = values if SPEC.lengths[field] == 1 else [v for v in values if v != 0]
        rows.append([starts[field] + v for v in kept])
    for place, number in enumerate(numbers):
        inner = model.edges[place, 1:-1].tolist()
        code = 0 if math.isnan(number) else FIRST_BUCKET + sum(edge <= number for edge in inner)
        rows.append([starts[3 + place] + code])
    return rows


def test_logits_are_the_papers_sums(model: DeepFM) -> None:
    examples = [
        ([[1], [2, 6, 0], [3]], [10.0, 7.5]),
        ([[0], [0, 0, 0], [1]], [math.nan, 9_999.0]),
        ([[4], [5, 5, 1], [0]], [-3.0, math.nan]),
    ]
    codes = [torch.tensor([e[0][field] for e in examples]) for field in range(3)]
    numbers = torch.tensor([e[1] for e in examples])
    with torch.no_grad():
        got = model(codes, numbers)
        for place, (example_codes, example_numbers) in enumerate(examples):
            vectors, first = [], 0.0
            for rows in _field_rows(model, example_codes, example_numbers):
                table = [model.embedding.weight[r] for r in rows] or [torch.zeros(SPEC.dim)]
                vectors.append(torch.stack(table).mean(0))
                first += sum(float(model.first.weight[r]) for r in rows) / max(len(rows), 1)
            second = sum(float(a @ b) for a, b in combinations(vectors, 2))
            # the module puts fields of one value first, then the lists
            order = [0, 2, 3, 4, 1]
            deep_in = torch.cat([*[vectors[i] for i in order], model.quantiles(numbers)[place]])
            expected = float(model.intercept) + first + second + float(model.deep(deep_in))
            assert float(got[place]) == pytest.approx(expected, abs=1e-4)


def test_quantiles_are_the_share_of_rows_below(model: DeepFM) -> None:
    numbers = torch.tensor([[0.0, 0.0], [50.0, 2500.0], [100.0, 10_000.0], [-9.0, 99_999.0], [math.nan, math.nan]])
    got = model.quantiles(numbers)
    wanted = torch.tensor([[-1.5, -1.5], [0.0, 0.0], [1.5, 1.5], [-1.5, 1.5], [0.0, 0.0]])
    assert torch.allclose(got, wanted, atol=1e-5)


def test_a_number_of_one_value_does_not_break() -> None:
    made = DeepFM(DeepFMSpec([2], [1], 1, 4, 2, [3], 0.0))
    made.fit_numbers(torch.full((50, 1), 7.0))
    logits = made([torch.zeros(3, 1, dtype=torch.int64)], torch.tensor([[6.0], [7.0], [8.0]]))
    assert torch.isfinite(logits).all()


def test_an_all_missing_number_does_not_break() -> None:
    made = DeepFM(DeepFMSpec([2], [1], 1, 4, 2, [3], 0.0))
    made.fit_numbers(torch.full((50, 1), math.nan))
    logits = made([torch.zeros(2, 1, dtype=torch.int64)], torch.tensor([[math.nan], [1.0]]))
    assert torch.isfinite(logits).all()


def test_the_gradient_of_the_interactions_is_that_of_their_sum() -> None:
    vectors = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    pairs = sum((vectors[:, one] * vectors[:, other]).sum(1) for one, other in combinations(range(4), 2))
    torch.testing.assert_close(_Interactions.apply(vectors), pairs)
    assert torch.autograd.gradcheck(_Interactions.apply, vectors)
