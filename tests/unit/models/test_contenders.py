"""Contenders of a whole catalogue, and the bounds they are found by, against every pair's logit in float32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_spark.models import upper as module
from recsys_spark.models.contenders import contenders
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.models.split import Sides, SplitDeepFM
from recsys_spark.native import coded_layers_library, layers_library
from recsys_spark.ragged import Rows

USERS, ITEMS = 19, 700
needs_kernel = pytest.mark.skipif(
    layers_library() is None or coded_layers_library() is None,
    reason="the compiled kernel is not there: not built, or a processor without AVX-512 VNNI",
)


def model_of(hidden: list[int], scale: float = 0.3, seed: int = 1, items: int = ITEMS) -> SplitDeepFM:
    """Trained-looking weights; some hundred items have the codes of another one, and so its logit."""
    draw = np.random.default_rng(seed)
    of_items = [draw.integers(0, 60, items).astype(np.int32), draw.integers(0, 9, items).astype(np.int32)]
    fields = FieldTables(SideTables([draw.integers(0, 40, USERS).astype(np.int32)]), SideTables(of_items))
    torch.manual_seed(seed)
    model = DeepFM(DeepFMSpec([40, 60, 9], fields.lengths, 0, 8, 6, hidden, 0.0))
    with torch.no_grad():
        for weight in model.parameters():
            weight += scale * torch.randn(weight.shape)
    return SplitDeepFM(model.eval(), fields)


def sides_of(split: SplitDeepFM, items: int = ITEMS) -> tuple[Sides, Sides]:
    return split.users(torch.arange(USERS)), split.items(torch.arange(items))


def best(logits: NDArray[np.floating], open_items: NDArray[np.int64], k: int) -> list[int]:
    """The k largest, of equal ones the first."""
    return sorted(open_items.tolist(), key=lambda item: (-logits[item], item))[:k]


@pytest.fixture(params=["compiled", "numpy"])
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(module, "layers_library", lambda: None)
    elif layers_library() is None:
        pytest.skip("the compiled kernel is not there: not built, or a processor without AVX-512")


@pytest.mark.usefixtures("_each_way")
@pytest.mark.parametrize("hidden", [[], [16], [64, 32], [130, 50, 1], [48, 80, 24, 8]])
@pytest.mark.parametrize("k", [1, 20, ITEMS - 1, ITEMS, ITEMS + 5])
@pytest.mark.parametrize("moved", [False, True])
def test_the_best_are_among_the_contenders_with_their_logits(hidden: list[int], k: int, moved: bool) -> None:
    split, draw = model_of(hidden), np.random.default_rng(2)
    users, items = sides_of(split)
    barred = Rows.from_lists([draw.permutation(ITEMS)[: draw.integers(0, ITEMS + 1)] for _ in range(USERS)])
    added = draw.normal(size=ITEMS).round(1) if moved else None
    owner, item, logits = contenders(split, users, items, k, barred, added)
    for start in range(0, USERS, 16):  # the shape of a product decides on its last bits
        wanted = split.catalogue(users.take(slice(start, start + 16)), items)
        for row, all_logits in enumerate(wanted, start):
            mine = owner == row
            allowed = np.setdiff1d(np.arange(ITEMS), barred.row(row))
            assert np.isin(item[mine], allowed).all()
            np.testing.assert_array_equal(logits[mine], all_logits[item[mine]])
            ranking = all_logits if added is None else all_logits + added
            assert set(best(ranking, allowed, k)) <= set(item[mine].tolist())


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 90), min_size=2, max_size=4),
    scale=st.sampled_from([0.0, 1e-12, 0.05, 0.5, 3.0, 50.0]),
    seed=st.integers(0, 10_000),
)
def test_no_logit_is_further_off_than_its_bound(hidden: list[int], scale: float, seed: int) -> None:
    split = model_of(hidden, scale, seed, 60)
    users, items = sides_of(split, 60)
    wanted, found = split.catalogue(users, items), split.products(users, items)
    assert split.upper.coded is not None
    for row, own in enumerate(users.hidden):
        bounds = split.upper.add_nearly(items.hidden, own, found[row])
        assert (np.abs(found[row].astype(np.float64) - wanted[row]) <= bounds).all()
        assert np.isfinite(bounds).all()


@needs_kernel
def test_layers_of_zeros_and_of_one_large_weight() -> None:
    split = model_of([64, 64, 64])
    for weight, bias in zip(split.upper.inner, split.upper.inner_biases, strict=True):
        weight[:], bias[:] = 0.0, 0.0
    split.upper.inner[0][3, 5] = 1e4
    users, items = sides_of(split)
    wanted, found = split.catalogue(users, items), split.products(users, items)
    for row, own in enumerate(users.hidden):
        bounds = split.upper.add_nearly(items.hidden, own, found[row])
        assert (np.abs(found[row].astype(np.float64) - wanted[row]) <= bounds).all()


@needs_kernel
def test_most_of_a_catalogue_is_ruled_out() -> None:
    split = model_of([64, 64], scale=0.15)
    owner, _, _ = contenders(split, *sides_of(split), 10, Rows.empty(USERS))
    assert len(owner) < 0.25 * USERS * ITEMS


@pytest.mark.usefixtures("_each_way")
def test_what_a_shift_makes_equal_is_a_tie() -> None:
    split, shift = model_of([16, 8], 0.05), -3e5  # float32 has steps of .03 there
    users, items = sides_of(split)
    owner, item, logits = contenders(split, users, items, 5, Rows.empty(USERS), shift=shift)
    wanted = split.catalogue(users.take(slice(0, 16)), items) + np.float32(shift)
    for row, all_logits in enumerate(wanted):
        mine = owner == row
        np.testing.assert_array_equal(logits[mine], all_logits[item[mine]])
        assert set(best(all_logits, np.arange(ITEMS), 5)) <= set(item[mine].tolist())


@pytest.mark.usefixtures("_each_way")
def test_additions_that_swallow_the_logits_leave_ties() -> None:
    split = model_of([64, 32])
    users, items = sides_of(split)
    added = np.where(np.arange(ITEMS) % 2, 2.0**53, 0.0)  # two apart is the least that float64 can tell there
    owner, item, _ = contenders(split, users, items, 40, Rows.empty(USERS), added)
    for row, all_logits in enumerate(split.catalogue(users.take(slice(0, 16)), items)):
        ranking = all_logits.astype(np.float64) + added
        assert set(best(ranking, np.arange(ITEMS), 40)) <= set(item[owner == row].tolist())


@pytest.mark.usefixtures("_each_way")
def test_an_item_that_is_moved_up_but_not_probable_takes_nobodys_place() -> None:
    split = model_of([64, 32])
    users, items = sides_of(split)
    wanted = split.catalogue(users.take(slice(0, 16)), items)
    least = float(np.sort(wanted, axis=1)[:, -30].min())
    added = np.where(np.arange(ITEMS) % 3, 0.0, 1e3)
    owner, item, logits = contenders(
        split, users, items, 8, Rows.empty(USERS), added, enough=lambda each: each >= least
    )
    for row, all_logits in enumerate(wanted):
        mine, may_be = owner == row, np.flatnonzero(all_logits >= least)
        chosen = item[mine][logits[mine] >= least]
        assert set(best(all_logits + added, may_be, 8)) <= set(chosen.tolist())
        assert len(chosen) >= min(8, len(may_be))


@needs_kernel
def test_a_layer_whose_sums_would_not_fit_goes_without_whole_numbers() -> None:
    split = model_of([70_000, 16], items=60)
    for weight in (split.upper.inner[0], split.upper.last):
        weight[:] = 0.5
    users, items = sides_of(split, 60)
    first = np.full_like(items.hidden, 50.0)
    first[9:, ::2] = -50.0  # the others are worse, and their sums fit
    users, items = users.take(slice(0, 1)), replace(items, hidden=first)
    _, item, logits = contenders(split, users, items, 3, Rows.empty(1))
    wanted = split.catalogue(users, items)[0]
    assert set(best(wanted, np.arange(60), 3)) <= set(item.tolist())
    np.testing.assert_array_equal(logits, wanted[item])


@pytest.mark.usefixtures("_each_way")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("weight", [np.nan, np.inf, 1e25])
def test_numbers_that_are_none_rule_nothing_out(weight: float) -> None:
    split = model_of([64, 48, 32], items=60)
    split.upper.inner[0][:, :40] *= np.float32(weight)
    split.upper.inner[1][:] *= np.float32(1e15)
    users, items = sides_of(split, 60)
    owner, _, _ = contenders(split, users, items, 5, Rows.empty(USERS))
    assert np.bincount(owner, minlength=USERS).min() >= 5


def test_no_user_and_no_item() -> None:
    split = model_of([16, 8])
    users, items = sides_of(split)
    none = users.take(slice(0, 0))
    for some in (
        contenders(split, none, items, 3, Rows.empty(0)),
        contenders(split, users, items.take(slice(0, 0)), 3, Rows.empty(USERS)),
    ):
        assert [len(each) for each in some] == [0, 0, 0]
