"""The ranker's task on labels drawn from a planted model, and what its settings do."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark.config import Ranker
from recsys_spark.evaluation.metrics import AucHistogram
from recsys_spark.models.deepfm import DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Alone
from recsys_spark.training.loop import fit
from recsys_spark.training.tasks.ranker import RankerTask

USERS, ITEMS, GROUPS = 80, 60, 4


class Arrays:
    """Batches of rows in memory."""

    def __init__(self, users: NDArray[Any], items: NDArray[Any], target: NDArray[Any], batch_size: int) -> None:
        self.users, self.items, self.target, self.batch_size = users, items, target, batch_size

    def __len__(self) -> int:
        return len(self.users) // self.batch_size

    def describe(self) -> dict[str, Any]:
        return {"ranks": 1, "rows": len(self.users)}

    def epoch(self, epoch: int, shuffle: bool = True, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        order = np.random.default_rng(epoch).permutation(len(self.users))
        for step in range(skip, len(self)):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            names = {"user_index": self.users, "item_index": self.items, "target": self.target}
            batch = {name: torch.from_numpy(values[rows].astype(np.int32)) for name, values in names.items()}
            yield {**batch, ROW_WEIGHT: torch.ones(len(rows))}


class Planted:
    """Logit of a pair: what the user is like, what the item is like, and how their kinds go together."""

    def __init__(self) -> None:
        draw = np.random.default_rng(11)
        self.kind = draw.integers(1, GROUPS + 1, ITEMS).astype(np.int32)
        self.user, self.item = draw.normal(0, 0.8, USERS), draw.normal(0, 0.8, ITEMS)
        self.taste = draw.normal(0, 1.5, (USERS, GROUPS + 1))
        self.draw = draw

    def logits(self, users: NDArray[Any], items: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = self.user[users] + self.item[items] + self.taste[users, self.kind[items]]
        return found

    def rows(self, count: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        users, items = self.draw.integers(0, USERS, count), self.draw.integers(0, ITEMS, count)
        chance = 1 / (1 + np.exp(-self.logits(users, items)))
        return users, items, (self.draw.random(count) < chance).astype(np.int64)


def made(planted: Planted, validation: Arrays | None = None, **settings: Any) -> tuple[RankerTask, Ranker]:
    given = {"ids": ["user", "item"], "hidden": [16], "dropout": 0.0, "learning_rate": 0.02, "embedding_decay": 0.0}
    chosen = Ranker.model_validate({**given, "epochs": 6, "patience": 6, "dim": 6, **settings})
    ids = [np.arange(size, dtype=np.int32) for size in (USERS, ITEMS)]
    fields = FieldTables(SideTables([ids[0]]), SideTables([ids[1], planted.kind]))
    sizes = [USERS, ITEMS, GROUPS + 1]
    spec = DeepFMSpec(sizes, fields.lengths, 0, 4, 6, [16], 0.0, embedding_dropout=chosen.embedding_dropout)
    return RankerTask(spec, fields, [], torch.zeros(0, 0), validation, chosen, Alone()), chosen  # type: ignore[arg-type]


def fitted(task: RankerTask, stream: Arrays, settings: Ranker, folder: Path, epochs: int | None = None) -> Any:
    checkpoints = Checkpoints(Storage(str(folder)), "checkpoints", 2)
    return fit(task, stream, Alone(), settings, checkpoints, lambda *_, **__: None, "ranker", epochs)


def logits(task: RankerTask, users: NDArray[Any], items: NDArray[Any]) -> NDArray[Any]:
    task.model.load_state_dict(task.weights())
    inputs = task.fields.inputs(torch.from_numpy(users), torch.from_numpy(items))
    with torch.no_grad():
        found: NDArray[Any] = task.model.eval()(numbers=torch.zeros(len(users), 0), **inputs).numpy()
    return found


def test_given_labels_are_told_apart_nearly_as_well_as_the_planted_model_does(tmp_path: Path) -> None:
    planted = Planted()
    train, valid = (Arrays(*planted.rows(count), 512) for count in (40_960, 4_096))
    task, settings = made(planted, valid, average=0.9, id_l2=0.002)
    curve = fitted(task, train, settings, tmp_path)
    users, items, target = planted.rows(20_000)
    best = AucHistogram.of(planted.logits(users, items).astype(np.float32), target).auc()
    found = AucHistogram.of(logits(task, users, items), target).auc()
    assert best > 0.8
    assert found > best - 0.015
    assert curve[-1]["minus_logloss"] > curve[0]["minus_logloss"]


def test_the_penalty_is_the_sum_over_uses_of_ids() -> None:
    planted = Planted()
    task, _ = made(planted, id_l2=0.5)
    batch = {
        "user_index": torch.tensor([3, 3, 7], dtype=torch.int32),
        "item_index": torch.tensor([1, 2, 0], dtype=torch.int32),
        ROW_WEIGHT: torch.tensor([1.0, 1.0, 0.0]),
    }
    table = task.model.embedding.weight.detach()
    wanted = 0.5 * (2 * table[3].square().sum() + table[USERS + 1].square().sum() + table[USERS + 2].square().sum())
    assert float(task._penalty(batch).detach()) == pytest.approx(float(wanted), rel=1e-5)
    without, _ = made(planted)
    assert float(without._penalty(batch)) == 0.0


def test_what_is_kept_is_the_moving_average_of_the_steps() -> None:
    planted = Planted()
    task, _ = made(planted, average=0.75)
    kept = task.model.embedding.weight.detach().clone()
    for number, batch in enumerate(Arrays(*planted.rows(640), 64).epoch(0), start=1):
        task.step(batch, 0.0)
        stays = min(0.75, (1 + number) / (10 + number))
        kept = stays * kept + (1 - stays) * task.model.embedding.weight.detach()
    assert torch.allclose(task.weights()["embedding.weight"], kept, atol=1e-6)
    assert not torch.allclose(task.model.embedding.weight, kept, atol=1e-4)


def test_resumed_with_averaging_equals_uninterrupted(tmp_path: Path) -> None:
    planted = Planted()
    rows = Arrays(*planted.rows(1_024), 128)
    whole, settings = made(planted, average=0.9, embedding_dropout=0.2)
    fitted(whole, rows, settings, tmp_path / "whole", epochs=4)

    class Killed(RuntimeError):
        pass

    first, _ = made(planted, average=0.9, embedding_dropout=0.2)
    begin = first.begin

    def killed(epoch: int) -> None:
        if epoch == 2:
            raise Killed
        begin(epoch)

    first.begin = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        fitted(first, rows, settings, tmp_path / "parts", epochs=4)
    again, _ = made(planted, average=0.9, embedding_dropout=0.2)
    fitted(again, rows, settings, tmp_path / "parts", epochs=4)
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, again.weights()[name]), name
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_dropout_of_embeddings_is_for_training_only() -> None:
    planted = Planted()
    task, _ = made(planted, embedding_dropout=0.5)
    torch.nn.init.normal_(task.model.embedding.weight)
    users, items = np.arange(50), np.arange(50)
    assert np.array_equal(logits(task, users, items), logits(task, users, items))
    inputs = task.fields.inputs(torch.from_numpy(users), torch.from_numpy(items))
    task.model.train()
    one, other = (task.model(numbers=torch.zeros(50, 0), **inputs) for _ in range(2))
    assert not torch.equal(one, other)
