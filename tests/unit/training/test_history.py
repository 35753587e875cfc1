"""Users' vectors that hold a share of the mean of their items: in training, in validation and as they are written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_retrieval import USERS, batch_of, planted, task_of
from torch.nn import functional

from recsys_spark.config.load import parse_settings
from recsys_spark.errors import RecsysError
from recsys_spark.models import blocks
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.ragged import Rows
from recsys_spark.training.tasks.ranking import Validation

SHARE = 0.7


@pytest.mark.parametrize("temperature", [None, 0.2])
@pytest.mark.parametrize("shared", [[1, 8, 3, 2], [1, 4]])
def test_scores_and_gradients_are_those_of_the_definition(temperature: float | None, shared: list[int]) -> None:
    torch.manual_seed(1)
    model = MatrixFactorization(6, 9, 4, 0.5, temperature, sparse_items=False, history=SHARE)
    model.user.sparse = False
    users, owner, positives = torch.tensor([2, 5]), torch.tensor([0, 1, 1]), torch.tensor([3, 8, 2])
    weight = torch.tensor([1.0, 0.5, 2.0])
    place = torch.tensor([shared.index(item) if item in shared else -1 for item in positives.tolist()])
    block = model(users, owner, positives, torch.tensor(shared), place, weight)
    blocks.softmax(block, torch.ones(len(shared)), weight).backward()
    got = [model.user.weight.grad, model.item.weight.grad]
    assert all(each is not None for each in got)
    own, item = (table.weight.detach().clone().requires_grad_() for table in (model.user, model.item))

    def unit(vectors: torch.Tensor) -> torch.Tensor:
        return vectors if temperature is None else functional.normalize(vectors, dim=-1)

    loss = torch.zeros(())
    for row, user in enumerate(users.tolist()):
        pairs = torch.nonzero(owner == row).squeeze(1)
        mine = positives[pairs]
        past = (weight[pairs, None] * unit(item[mine])).sum(0) / weight[pairs].sum()
        vector = ((1 - SHARE) * unit(own[user]) + SHARE * unit(past)) / (temperature or 1.0)
        assert torch.allclose(block.user[row], vector, atol=1e-6)
        rivals = torch.tensor([each for each in shared if each not in mine.tolist()])
        for pair in pairs.tolist():
            scores = unit(item[torch.cat([positives[pair : pair + 1], rivals])]) @ vector
            loss = loss + weight[pair] * (torch.logsumexp(scores, 0) - scores[0])
    loss.backward()
    for found, wanted in zip(got, (own.grad, item.grad), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def trained(**changes: Any) -> Any:
    users, items = planted(0)
    whole = batch_of(users, items)
    task = task_of(None, history=SHARE, temperature=0.2, **changes)
    task.examples = lambda: [{name: values[at : at + 50] for name, values in whole.items()} for at in range(0, 240, 50)]
    task.begin(0)
    for _ in range(30):
        task.step(whole, 0.0)
    return task, users, items


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_written_vectors_are_those_of_training_whatever_the_batches(power: float) -> None:
    task, users, items = trained(history_power=power)
    task.look_back()
    known = torch.from_numpy(np.unique(users))
    _, owner = np.unique(users, return_inverse=True)
    pairs, shared = torch.from_numpy(items), torch.arange(2)
    outside = torch.full((len(items),), -1)
    share = 0.3 * torch.from_numpy(np.bincount(items)[items]).float() ** -power
    block = task.model(known, torch.from_numpy(owner), pairs, shared, outside, share)
    torch.testing.assert_close(task.user_vectors(known)[:, :-1], block.user.detach(), atol=1e-5, rtol=1e-5)
    alone = torch.tensor([0])  # nothing is known of the padding: its own share is left
    norm = float(task.user_vectors(alone)[0, :-1].norm())
    assert norm == pytest.approx(float(bool(task.model.user.weight[0].any())) * (1 - SHARE) / 0.2, rel=1e-4)


def test_validation_knows_the_items_as_they_are_now() -> None:
    validation = Validation(
        np.arange(2, USERS), Rows.from_lists([[2]] * (USERS - 2)), Rows.from_lists([[5]] * (USERS - 2))
    )
    task, _, _ = trained()
    task.validation = validation
    first = task.validate()
    with torch.no_grad():
        task.model.item.weight.copy_(
            torch.randn(task.model.item.weight.shape, generator=torch.Generator().manual_seed(2))
        )
    second, users = task.validate(), torch.arange(len(task.rows))
    vectors = task.user_vectors(users)
    task.look_back()
    assert torch.equal(vectors, task.user_vectors(users))
    assert first != second


def test_pairs_must_lie_together() -> None:
    log = {"path": "p", "user_id": "u", "item_id": "i", "event_time": "t", "constant_event_type": "view"}
    tree = {
        "name": "x",
        "root": "r",
        "input": {"interactions": log},
        "events": {"view": 1.0},
        "retrieval": {"history": 0.5},
    }
    with pytest.raises(RecsysError, match=r"retrieval\.history needs features\.whole_users"):
        parse_settings(tree)
    assert parse_settings({**tree, "features": {"whole_users": True}}).retrieval.history == 0.5
