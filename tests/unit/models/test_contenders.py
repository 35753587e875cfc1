"""Contenders of a whole catalogue, and the bounds they are found by, against every pair's logit in float32."""

from __future__ import annotations

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


def test_no_user_and_no_item() -> None:
    split = model_of([16, 8])
    users, items = sides_of(split)
    none = users.take(slice(0, 0))
    for some in (
        contenders(split, none, items, 3, Rows.empty(0)),
        contenders(split, users, items.take(slice(0, 0)), 3, Rows.empty(USERS)),
    ):
        assert [len(each) for each in some] == [0, 0, 0]
