"""Optimizers of touched rows against torch's dense and sparse ones, and against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_spark.training import rows as rows_module
from recsys_spark.training.rows import (
    Distinct,
    GradientDescent,
    LazyAdam,
    RowwiseAdagrad,
    coalesce,
    distinct,
    row_optimizer,
    state_of,
    sum_of_rows,
    take_state,
)

ROWS, DIM = 9, 3


def gradients(seed: int, steps: int, touched: int = 4) -> list[Tensor]:
    """Sparse gradients as an embedding makes them: rows in any order, some more than once."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(steps):
        rows = torch.randint(0, ROWS, (1, touched), generator=draw)
        values = torch.randn(touched, DIM, generator=draw)
        found.append(torch.sparse_coo_tensor(rows, values, (ROWS, DIM), check_invariants=True))
    return found


def start(seed: int = 0) -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(seed))


def stepped(optimizer: LazyAdam | RowwiseAdagrad, given: list[Tensor], rates: list[float]) -> None:
    for gradient, rate in zip(given, rates, strict=True):
        merged = coalesce(gradient)
        optimizer.step(merged.indices()[0], merged.values(), rate)


@given(seed=st.integers(0, 10_000), touched=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_lazy_adam_is_torchs_sparse_adam(seed: int, touched: int) -> None:
    given_, rates = gradients(seed, 6, touched), [0.1, 0.05, 0.2, 0.1, 0.0, 0.3]
    ours = start(seed)
    stepped(LazyAdam(ours), given_, rates)
    theirs = torch.nn.Parameter(start(seed))
    reference = torch.optim.SparseAdam([theirs])
    for gradient, rate in zip(given_, rates, strict=True):
        theirs.grad = gradient
        reference.param_groups[0]["lr"] = rate
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)


def test_lazy_adam_is_torchs_adamw_where_all_rows_are_touched() -> None:
    ours, theirs = start(), torch.nn.Parameter(start())
    lazy, reference = LazyAdam(ours, decay=0.3), torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.3)
    for gradient in gradients(1, 8):
        dense = gradient.to_dense().abs() + 0.5  # far from epsilon
        lazy.step(torch.arange(ROWS), dense, 0.1)
        theirs.grad = dense
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=2e-6)


def plain_adagrad(weight: Tensor, given: list[Tensor], rates: list[float], decay: float) -> list[list[float]]:
    """The paper's sums, number by number."""
    table = [row.tolist() for row in weight]
    sums = [0.0] * len(table)
    for gradient, rate in zip(given, rates, strict=True):
        rows = set(gradient._indices()[0].tolist())
        dense = gradient.to_dense().tolist()
        for row in rows:
            sums[row] += sum(g * g for g in dense[row]) / DIM
            for place, g in enumerate(dense[row]):
                table[row][place] *= 1 - rate * decay
                table[row][place] -= rate * g / (math.sqrt(sums[row]) + 1e-8)
    return table


@pytest.mark.parametrize("decay", [0.0, 0.5])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_rowwise_adagrad_is_the_plain_loop(seed: int, decay: float) -> None:
    given_, rates = gradients(seed, 5), [0.1, 0.2, 0.1, 0.4, 0.05]
    ours = start(seed)
    stepped(RowwiseAdagrad(ours, decay), given_, rates)
    torch.testing.assert_close(
        ours, torch.tensor(plain_adagrad(start(seed), given_, rates, decay)), rtol=1e-5, atol=1e-5
    )


def test_rowwise_adagrad_of_one_number_a_row_is_torchs_adagrad() -> None:
    ours, theirs = start()[:, :1].clone(), torch.nn.Parameter(start()[:, :1].clone())
    mine, reference = RowwiseAdagrad(ours), torch.optim.Adagrad([theirs], lr=0.2, eps=1e-8)
    for gradient in gradients(2, 6):
        dense = gradient.to_dense()[:, :1].contiguous()
        mine.step(torch.arange(ROWS), dense, 0.2)
        theirs.grad = dense
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
def test_other_rows_and_their_state_stay(kind: str) -> None:
    weight = start()
    optimizer = row_optimizer(kind, weight, 0.5)  # type: ignore[arg-type]
    everywhere = torch.ones(ROWS, DIM)
    optimizer.step(torch.arange(ROWS), everywhere, 0.1)
    before = {"weight": weight.clone(), **{name: tensor.clone() for name, tensor in optimizer.by_row.items()}}
    optimizer.step(torch.tensor([2, 5]), torch.ones(2, DIM), 0.1)
    others = torch.tensor([row for row in range(ROWS) if row not in (2, 5)])
    for name, tensor in {"weight": weight, **optimizer.by_row}.items():
        assert torch.equal(tensor[others], before[name][others]), name
        assert not torch.equal(tensor[[2, 5]], before[name][[2, 5]]), name


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
def test_no_touched_row_is_no_change(kind: str) -> None:
    weight = start()
    optimizer = row_optimizer(kind, weight, 0.5)  # type: ignore[arg-type]
    optimizer.step(torch.zeros(0, dtype=torch.int64), torch.zeros(0, DIM), 0.1)
    assert torch.equal(weight, start())


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
def test_a_resumed_optimizer_goes_on_bit_for_bit(kind: str) -> None:
    given_, rates = gradients(3, 8), [0.1] * 8
    whole = start()
    stepped(row_optimizer(kind, whole), given_, rates)  # type: ignore[arg-type]
    part = start()
    first = row_optimizer(kind, part)  # type: ignore[arg-type]
    stepped(first, given_[:5], rates[:5])
    resumed = part.clone()
    second = row_optimizer(kind, resumed)  # type: ignore[arg-type]
    state = {name: each.clone() if isinstance(each, Tensor) else each for name, each in state_of(first).items()}
    take_state(second, state)
    stepped(second, given_[5:], rates[5:])
    assert torch.equal(resumed, whole)


def test_a_part_of_the_rows_goes_on_alone_with_its_part_of_the_state() -> None:
    """State lies by row: half a table, cut out with its state, ends as that half of the whole."""
    for kind in ("adam", "rowwise_adagrad", "sgd"):
        whole = start()
        first = row_optimizer(kind, whole)  # type: ignore[arg-type]
        stepped(first, gradients(4, 3), [0.1] * 3)
        half = slice(3, 8)
        part = whole[half].clone()
        second = row_optimizer(kind, part)  # type: ignore[arg-type]
        take_state(second, {"steps": first.steps, **{name: each[half] for name, each in first.by_row.items()}})
        gradient = torch.randn(2, DIM, generator=torch.Generator().manual_seed(1))
        first.step(torch.tensor([4, 6]), gradient, 0.1)
        second.step(torch.tensor([1, 3]), gradient, 0.1)
        assert torch.equal(part, whole[half])


def test_gradient_descent_is_torchs_sgd_and_keeps_nothing() -> None:
    ours, theirs = start(), torch.nn.Parameter(start())
    mine, reference = GradientDescent(ours), torch.optim.SGD([theirs], lr=0.2)
    stepped(mine, gradients(2, 6), [0.2] * 6)
    for gradient in gradients(2, 6):
        theirs.grad = gradient.to_dense()
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-6)
    assert mine.by_row == {}


def test_rowwise_adagrad_keeps_one_number_a_row() -> None:
    assert {name: tuple(each.shape) for name, each in RowwiseAdagrad(start()).by_row.items()} == {"sum": (ROWS,)}


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
def test_many_rows_are_updated_in_parts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for at_once in (1, 7 * DIM, 1 << 15):
        monkeypatch.setattr(rows_module, "_AT_ONCE", at_once)
        weight = start()
        stepped(row_optimizer(kind, weight, 0.5), gradients(5, 4, 30), [0.1] * 4)  # type: ignore[arg-type]
        found.append(weight)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@given(seed=st.integers(0, 10_000), touched=st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_coalescing_is_torchs(seed: int, touched: int) -> None:
    (gradient,) = gradients(seed, 1, touched)
    ours, theirs = coalesce(gradient), gradient.coalesce()
    assert ours.is_coalesced()
    assert torch.equal(ours.indices(), theirs.indices())
    torch.testing.assert_close(ours.values(), theirs.values())
    assert coalesce(ours) is ours


@given(st.integers(0, 60), st.integers(1, 400), st.integers(0, 9))
def test_distinct_rows_are_those_that_sorting_finds(count: int, size: int, seed: int) -> None:
    """By marking and by sorting: tables both smaller and much larger than what is given."""
    rows = torch.randint(size, (count,), generator=torch.Generator().manual_seed(seed))
    for found, expected in zip(distinct(rows, size), torch.unique(rows, return_inverse=True), strict=True):
        assert torch.equal(found, expected)
        assert found.dtype == expected.dtype


@pytest.mark.parametrize("rows", [[], [0], [1, 4, 8], [8, 4, 1], [4, 4, 1]])
def test_rows_in_order_are_kept_and_others_summed(rows: list[int]) -> None:
    values = torch.arange(float(len(rows) * DIM)).view(-1, DIM)
    gradient = torch.sparse_coo_tensor(torch.tensor([rows], dtype=torch.int64), values, (ROWS, DIM))
    assert torch.equal(coalesce(gradient).to_dense(), gradient.to_dense())
    assert coalesce(gradient).indices()[0].tolist() == sorted(set(rows))


def test_rows_of_several_ranks_are_added_up() -> None:
    rows = [torch.tensor([1, 5]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 5, 8])]
    values = [torch.rand(len(each), DIM) for each in rows]
    expected = torch.zeros(ROWS, DIM)
    for where, theirs in zip(rows, values, strict=True):
        expected[where] += theirs
    found = sum_of_rows(rows, values, torch.Size([ROWS, DIM]))
    assert found.indices()[0].tolist() == [0, 1, 5, 8]
    assert torch.equal(found.to_dense(), expected)


def test_rows_that_are_asked_for_again_are_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(rows: Tensor, size: int) -> tuple[Tensor, Tensor]:
        asked.append(size)
        return distinct(rows, size)

    monkeypatch.setattr("recsys_spark.training.rows.distinct", counted)
    find, rows = Distinct(), torch.tensor([4, 1, 4])
    for ours, size in [(rows, 9), (rows.clone(), 9), (rows, 8), (torch.tensor([4, 1]), 8), (torch.tensor([4, 2]), 8)]:
        found, expected = find(ours, size), distinct(ours, size)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert asked == [9, 8, 8, 8]
