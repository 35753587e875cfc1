"""Vectors by attributes: pooling, the blend with an item's own vector, and what a network learns of planted vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys_spark.config import Cold
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.models.tower import ItemTower, blended
from recsys_spark.scoring.prepare.tower import Known, cold_vectors, content_vectors, fit_tower, told_vectors

ITEMS, DIM = 400, 5


def _known(**settings: object) -> tuple[Known, np.ndarray]:
    """Vectors that are the sum of one for each code and the mean of those of a list, with noise for rare items."""
    draw = np.random.default_rng(1)
    kind, tags = draw.integers(2, 8, ITEMS), draw.integers(0, 6, (ITEMS, 3))
    of_kind, of_tag = draw.normal(size=(8, DIM)), draw.normal(size=(6, DIM))
    present = (tags != 0)[:, :, None]
    truth = of_kind[kind] + (of_tag[tags] * present).sum(1) / np.maximum(present.sum(1), 1)
    events = draw.integers(0, 60, ITEMS)
    vectors = (truth + draw.normal(size=truth.shape) / np.sqrt(events + 0.5)[:, None]).astype(np.float32)
    fields = FieldTables(SideTables([]), SideTables([kind.astype(np.int32), tags.astype(np.int32)]))
    return Known(vectors, events, Cold.model_validate({"items": True, **settings}), fields, [8, 6]), truth


def test_held_out_vectors_are_told_and_passes_are_chosen_by_them() -> None:
    known, truth = _known(epochs=60, dropout=0.0)
    well = known.well
    network, passes, fit = fit_tower(known, well[::2], None, well[1::2])
    assert 1 < passes <= 60
    assert fit["r2"] > 0.7
    told = told_vectors(network, known)[well[1::2]]
    error = np.square(told - truth[well[1::2]]).mean() / truth.var()
    assert error < 0.2
    again, same, _ = fit_tower(known, well[::2], None, well[1::2])
    assert same == passes
    assert np.array_equal(told_vectors(again, known)[well[1::2]], told)


def test_few_events_are_better_told_together_than_alone() -> None:
    known, truth = _known(epochs=30, dropout=0.0, min_item_events=20, shrinkage=5.0)
    told = told_vectors(fit_tower(known, known.well, None)[0], known)
    described = np.ones(ITEMS, bool)
    described[:50] = False
    vectors = cold_vectors(known, told, described)
    same = (known.events >= 20) | ~described
    assert np.array_equal(vectors[same], known.vectors[same])
    few = (known.events < 20) & described
    error = {
        name: np.square(each[few] - truth[few]).mean() for name, each in (("own", known.vectors), ("both", vectors))
    }
    assert error["both"] < 0.5 * error["own"]
    none = few & (known.events == 0)
    assert none.any()
    assert np.allclose(vectors[none], told[none])


def test_the_blend_goes_from_what_is_told_to_the_own_vector() -> None:
    own, told = np.ones((4, 2), np.float32), np.zeros((4, 2), np.float32)
    shares = blended(own, told, np.array([0, 10, 30, 10**9]), 10.0)
    assert shares[:, 0].tolist() == pytest.approx([0.0, 0.5, 0.75, 1.0])
    assert shares.dtype == np.float32


def test_lists_are_pooled_by_their_weights_and_nothing_adds_nothing() -> None:
    torch.manual_seed(0)
    network = ItemTower([4, 5], 1, 3, [7], 2, 0.5).eval()

    def told(tags: list[int], weights: list[float] | None, number: float = 1.0) -> torch.Tensor:
        given = None if weights is None else torch.tensor([weights])
        return network([torch.tensor([[2]]), torch.tensor([tags])], [None, given], torch.tensor([[number]]))

    assert torch.equal(told([1, 3], None), told([3, 1], None))
    assert torch.equal(told([1, 0], None), told([1, 0], [1.0, 5.0]))  # code 0 is no value, whatever it weighs
    assert not torch.equal(told([1, 3], None), told([1, 3], [1.5, 0.5]))
    assert not torch.equal(told([1, 3], None), told([1, 3], None, float("nan")))
    before = told([1, 3], None)
    network.rescale(torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0]))
    assert torch.allclose(told([1, 3], None), before * torch.tensor([2.0, 3.0]) + torch.tensor([1.0, -1.0]), atol=1e-6)


def test_of_items_that_say_the_same_the_popular_one_is_nearer() -> None:
    told = np.array([[3, 4, 9], [0, 0, 0], [3, 4, 9], [-1, 0, 2]], np.float32)
    vectors = content_vectors(told, np.array([1, 5, 10, 0]))
    assert vectors[:, :2].tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 0], [0.6, 0.8], [-1, 0]]))
    assert vectors[:, 2].tolist() == pytest.approx([0.1 * np.log(2) / np.log(11), 0.0, 0.1, 0.0])
    assert content_vectors(told, np.zeros(4, np.int64))[:, 2].tolist() == [0.0] * 4
