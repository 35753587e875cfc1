"""DeepFM in parts against the module itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.models import upper as module
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.models.split import SplitDeepFM
from recsys_spark.native import layers_library

USERS, ITEMS = 30, 40


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def _each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "numpy":
        monkeypatch.setattr(module, "layers_library", lambda: None)
    elif layers_library() is None:
        pytest.skip("the compiled kernel is not there: not built, or a processor without AVX-512")


def model_of(hidden: list[int], numbers: int, dense: bool, lists: bool, seed: int = 1) -> tuple[DeepFM, FieldTables]:
    """Trained-looking weights; fields with lists, weights and missing values among them."""
    draw = np.random.default_rng(seed)
    sides = []
    for rows, sizes in ((USERS, [7, 5]), (ITEMS, [9, 4])):
        codes = [draw.integers(0, size, rows).astype(np.int32) for size in sizes]
        weights: list[np.ndarray | None] = [None] * len(codes)
        if lists:
            codes.insert(1, draw.integers(0, 6, (rows, 3)).astype(np.int32))
            weights.insert(1, draw.random((rows, 3)).astype(np.float32) if rows == USERS else None)
        values = draw.normal(size=(rows, 2 if rows == USERS else 1)).astype(np.float32)
        values[draw.random(values.shape) < 0.2] = np.nan
        sides.append(SideTables(codes, weights, values if dense else None))
    fields = FieldTables(*sides)
    sizes = [int(table.max()) + 1 for side in sides for table in side.codes]
    spec = DeepFMSpec(sizes, fields.lengths, numbers, 8, 5, hidden, 0.2, fields.dense, 0.1)
    torch.manual_seed(seed)
    model = DeepFM(spec)
    model.fit_numbers(torch.randn(500, numbers))
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape)
    return model.eval(), fields


@pytest.mark.parametrize("hidden", [[], [16], [7], [130, 50, 1]])
@pytest.mark.parametrize("numbers", [0, 3])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("lists", [False, True])
def test_logits_are_those_of_the_module(hidden: list[int], numbers: int, dense: bool, lists: bool) -> None:
    model, fields = model_of(hidden, numbers, dense, lists)
    split, draw = SplitDeepFM(model, fields), torch.Generator().manual_seed(2)
    users, items = torch.randperm(USERS, generator=draw)[:20], torch.randperm(ITEMS, generator=draw)[:25]
    owner, item = (torch.randint(size, (5_000,), generator=draw) for size in (20, 25))
    values = torch.randn(5_000, numbers, generator=draw)
    values[torch.rand(values.shape, generator=draw) < 0.2] = torch.nan
    wanted = model(numbers=values, **fields.inputs(users[owner], items[item]))
    sides = split.users(users), split.items(items)
    found = split.pairs(*sides, owner.numpy(), item.numpy(), values.numpy())
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hidden", [[], [16], [7], [130, 50, 1]])
def test_a_whole_catalogue_is_all_its_pairs(hidden: list[int]) -> None:
    model, fields = model_of(hidden, 0, True, True)
    split, users, items = SplitDeepFM(model, fields), torch.arange(3, USERS), torch.arange(ITEMS)
    owner = users.repeat_interleave(ITEMS)
    wanted = model(numbers=torch.zeros(len(owner), 0), **fields.inputs(owner, items.repeat(len(users))))
    found = split.catalogue(split.users(users), split.items(items))
    torch.testing.assert_close(torch.from_numpy(found).flatten(), wanted, atol=1e-5, rtol=1e-5)


def test_nothing_is_scored_by_sides_alone_where_pairs_have_features() -> None:
    model, fields = model_of([4], 2, False, False)
    split = SplitDeepFM(model, fields)
    with pytest.raises(ValueError, match="features of their own"):
        split.catalogue(split.users(torch.arange(2)), split.items(torch.arange(2)))


def test_no_pairs() -> None:
    model, fields = model_of([4], 2, False, False)
    split, none = SplitDeepFM(model, fields), torch.zeros(0, dtype=torch.int64)
    sides = split.users(none), split.items(none)
    assert split.pairs(*sides, none.numpy(), none.numpy(), np.zeros((0, 2), np.float32)).shape == (0,)
