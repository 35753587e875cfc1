"""Optimizers of touched rows against torch's dense and sparse ones, and against plain loops."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys_spark.training import rows as rows_module
from recsys_spark.training.rows import (
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


@pytest.fixture(params=["compiled", "torch"], autouse=True, scope="module")
def by(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run all tests by the compiled walks over rows, and by torch's operations."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(rows_module, "updates_library", lambda: None)
        elif rows_module.updates_library() is None:
            pytest.skip("nothing could be compiled here")
        yield


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


def test_equal_rows_are_added_in_their_order() -> None:
    """So that the sum of a row is the same number in every run, whatever threads there are."""
    rows, values = torch.tensor([3, 1, 3, 3, 1]), torch.tensor([[1e8], [1.0], [1.0], [-1e8], [2.0]])
    found = sum_of_rows([rows], [values], torch.Size([ROWS, 1]))
    expected = (torch.tensor(1e8) + 1.0) - 1e8  # not 1.0: the order shows
    assert found.values()[:, 0].tolist() == [3.0, float(expected)]


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
@pytest.mark.parametrize("dim", [1, 15, 64, 70])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_compiled_updates_are_torchs(kind: str, dim: int, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than are asked for ahead, and lengths with and without a rest of a register."""
    draw = torch.Generator().manual_seed(dim)
    first = torch.randn(50, dim, generator=draw)
    steps = [(torch.randperm(50, generator=draw)[:40], torch.randn(40, dim, generator=draw)) for _ in range(5)]
    found = []
    for library in (rows_module.updates_library(), None):
        monkeypatch.setattr(rows_module, "updates_library", lambda library=library: library)
        optimizer = row_optimizer(kind, first.clone(), decay)  # type: ignore[arg-type]
        for rows, gradient in steps:
            optimizer.step(rows, gradient, 0.1)
        found.append({**state_of(optimizer), "weight": optimizer.weight})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=2e-6, atol=2e-6)


def test_rows_that_a_table_has_not_are_refused() -> None:
    """Nothing is written beside the table."""
    for kind in ("adam", "rowwise_adagrad", "sgd"):
        weight = torch.zeros(ROWS, DIM)
        for row in (ROWS, -1):
            with pytest.raises(IndexError):
                row_optimizer(kind, weight).step(torch.tensor([1, row]), torch.ones(2, DIM), 0.1)  # type: ignore[arg-type]
    for row in (ROWS, -1):
        with pytest.raises(IndexError):
            distinct(torch.tensor([1, row, 1, 1]), ROWS)
        with pytest.raises(IndexError):
            distinct(torch.tensor([row]), ROWS)


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
@pytest.mark.parametrize("shape", [(2, DIM - 1), (2, DIM + 1), (3, DIM), (1, DIM), (2,), (6,)])
def test_gradients_of_another_shape_are_refused(kind: str, shape: tuple[int, ...]) -> None:
    optimizer = row_optimizer(kind, torch.zeros(ROWS, DIM))  # type: ignore[arg-type]
    if shape in ((1, DIM), (2,)) and rows_module.updates_library() is None:
        pytest.skip("torch makes them fit")
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        optimizer.step(torch.tensor([1, 2]), torch.ones(shape), 0.1)


def test_values_of_another_shape_are_not_added_up() -> None:
    for values in (torch.ones(2, DIM + 1), torch.ones(3, DIM)):
        with pytest.raises((ValueError, RuntimeError, IndexError)):
            sum_of_rows([torch.tensor([1, 2, 2, 1])], [values], torch.Size([ROWS, DIM]))


@pytest.mark.parametrize("kind", ["adam", "rowwise_adagrad", "sgd"])
def test_a_whole_learning_rate_is_a_number_too(kind: str) -> None:
    found = []
    for rate in (1, 1.0):
        weight = torch.ones(ROWS, DIM)
        row_optimizer(kind, weight).step(torch.tensor([1, 2]), torch.ones(2, DIM), rate)  # type: ignore[arg-type]
        found.append(weight)
    assert torch.equal(*found)
    assert float(found[0][1, 0]) == pytest.approx(0.0, abs=1e-6)


def test_distinct_rows_of_other_kinds_and_far_ones() -> None:
    for rows in (torch.tensor([5, 1, 5], dtype=torch.int32), torch.tensor([2**40, 3, 2**40])):
        for found, expected in zip(distinct(rows), torch.unique(rows, return_inverse=True), strict=True):
            assert torch.equal(found, expected)
