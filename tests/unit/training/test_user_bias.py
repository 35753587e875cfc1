"""A bias of users: part of every score in training, drawn to 0 like a vector, and of no effect on anybody's order."""

from __future__ import annotations

import pytest
import torch

from recsys_spark.config import Retrieval
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.training.tasks.gradient import mean_squares
from recsys_spark.training.tasks.negatives import Drawn


@pytest.mark.parametrize("history", [0.0, 0.4])
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_scores_have_it_and_vectors_do_not(temperature: float | None, history: float) -> None:
    torch.manual_seed(1)
    model = MatrixFactorization(6, 9, 4, 0.5, temperature, history=history, user_bias=True)
    assert model.user.weight.shape == (6, 5)
    users, owner, positives = torch.tensor([2, 4]), torch.tensor([0, 0, 1]), torch.tensor([3, 8, 5])
    shared, place = torch.tensor([1, 3, 5, 7]), torch.tensor([1, -1, 2])
    block = model(users, owner, positives, shared, place)
    past = torch.stack([model.item_directions(each).mean(0) for each in (positives[:2], positives[2:])])
    vectors = model.user_vectors(users, past if history else None)
    assert vectors.shape == (2, 5)
    wanted = vectors @ model.item_vectors().T + model.user.weight[users, 4:]
    every = block.at(torch.arange(2).repeat_interleave(4), torch.arange(4).repeat(2)).view(2, 4)
    torch.testing.assert_close(every, wanted[:, shared])
    torch.testing.assert_close(block.outside, wanted[0, 8:9])


def test_the_decay_is_of_biases_too() -> None:
    torch.manual_seed(1)
    model = MatrixFactorization(6, 9, 4, 0.5, user_bias=True)
    model.bias.weight.data.normal_()
    settings = Retrieval(loss="bce", user_bias=True, negative_weight=3.0)
    users, owner, positives = torch.tensor([2, 4]), torch.tensor([0, 0, 1]), torch.tensor([3, 8, 5])
    drawn = Drawn(torch.tensor([1, 3, 5, 7]), torch.ones(4), torch.full((4,), 0.25), torch.tensor([1, -1, 2]))
    found = mean_squares([(model.user, [model.item, model.bias])], users, owner, positives, drawn, settings)

    user, item = (each.weight.square().sum(1) for each in (model.user, model.item))
    item = item + model.bias.weight[:, 0].square()
    total = sum(4 * user[users[row]] + item[thing] for row, thing in zip(owner, positives, strict=True))
    total = total + 3 * 3.0 * (drawn.share * item[drawn.items]).sum()  # each pair with as many drawn items
    torch.testing.assert_close(found, total / 3)


@pytest.mark.parametrize("changes", [{"loss": "softmax"}, {"loss": "bpr"}, {"loss": "squared", "fit": "ials"}])
def test_it_is_refused_where_it_would_count_on_both_sides(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="user_bias"):
        Retrieval.model_validate({**changes, "user_bias": True})
