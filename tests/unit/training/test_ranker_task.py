"""The ranker's task: lazy tables, clipping, averages, figures and resumption, against plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys_spark.config import Ranker
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.training.collective import Alone
from recsys_spark.training.precision import autocast, products
from recsys_spark.training.tasks.ranker import RankerTask

USERS, ITEMS, CODES = 30, 20, 12


def fields() -> FieldTables:
    """Users by their own index and a list; items by their own index."""
    draw = np.random.default_rng(1)
    lists = draw.integers(0, CODES, (USERS, 3)).astype(np.int32)
    own = np.arange(USERS, dtype=np.int32), np.arange(ITEMS, dtype=np.int32)
    return FieldTables(SideTables([own[0], lists]), SideTables([own[1]]))


def batch_of(step: int, rows: int = 16, offset: float | None = None) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    users, items = torch.randint(0, USERS, (rows,), generator=draw), torch.randint(0, ITEMS, (rows,), generator=draw)
    target = (torch.rand(rows, generator=draw) < 0.2 + 0.6 * (users % 2 == items % 2)).int()
    more = {} if offset is None else {"offset": torch.full((rows,), offset)}
    numbers = torch.randn(rows, generator=draw)
    return {
        "user_index": users,
        "item_index": items,
        "target": target,
        "x": numbers,
        "row_weight": torch.ones(rows),
    } | more


class Batches:
    """A validation stream."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches

    def epoch(self, epoch: int, shuffle: bool = True) -> Iterator[dict[str, Tensor]]:
        yield from self.batches


def task_of(validation: Any = None, **changes: Any) -> RankerTask:
    values = {"dim": 4, "hidden": [6], "dropout": 0.0, "buckets": 4, "batch_size": 16, "learning_rate": 0.05, **changes}
    settings = Ranker(**values)
    spec = DeepFMSpec([USERS, CODES, ITEMS], [1, 3, 1], 1, 4, 4, [6], settings.dropout, 0, settings.embedding_dropout)
    sample = torch.linspace(-2, 2, 50).unsqueeze(1)
    return RankerTask(spec, fields(), ["x"], sample, validation, settings, Alone())


def trained(task: RankerTask, steps: range) -> RankerTask:
    for step in steps:
        task.step(batch_of(step), step / 100)
    return task


def plain(task: RankerTask, lazy: str, clip_norm: float | None, steps: int) -> DeepFM:
    """The same training by torch: dense gradients everywhere, and rows that were not touched put back."""
    model, settings = deepcopy(task.model), task.settings
    tables = [model.embedding, model.first]
    for table in tables:
        table.sparse = False
    others = [each for name, each in model.named_parameters() if not name.startswith(("embedding", "first"))]
    decays = [0.0 if each is model.intercept else settings.deep_decay for each in others]
    groups = [{"params": [each], "weight_decay": decay} for each, decay in zip(others, decays, strict=True)]
    adam = torch.optim.AdamW(groups, lr=settings.learning_rate)
    state = [[torch.zeros_like(t.weight), torch.zeros_like(t.weight), torch.zeros(t.num_embeddings)] for t in tables]
    for step in range(steps):
        batch = batch_of(step)
        inputs = task.fields.inputs(batch["user_index"], batch["item_index"])
        logits = model(numbers=batch["x"].unsqueeze(1), **inputs)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["target"].float())
        model.zero_grad()
        loss.backward()
        if clip_norm is not None:
            assert float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)) > clip_norm
        adam.step()
        for table, (mean, square, total) in zip(tables, state, strict=True):
            gradient = table.weight.grad
            assert gradient is not None
            touched = torch.nonzero(used(model, batch, inputs)).squeeze(1)
            with torch.no_grad():
                table.weight[touched] *= 1 - settings.learning_rate * settings.embedding_decay
                for row in touched.tolist():
                    g = gradient[row]
                    if lazy == "rowwise_adagrad":
                        total[row] += g.square().mean()
                        table.weight[row] -= settings.learning_rate * g / (total[row].sqrt() + 1e-8)
                        continue
                    mean[row], square[row] = 0.9 * mean[row] + 0.1 * g, 0.999 * square[row] + 0.001 * g * g
                    right = (1 - 0.999 ** (step + 1)) ** 0.5 / (1 - 0.9 ** (step + 1))
                    table.weight[row] -= settings.learning_rate * right * mean[row] / (square[row].sqrt() + 1e-8)
    return model


def used(model: DeepFM, batch: dict[str, Tensor], inputs: dict[str, Any]) -> Tensor:
    """Rows of the tables that a batch looks up, padding of lists too."""
    marks = torch.zeros(model.embedding.num_embeddings, dtype=torch.bool)
    for start, codes in zip(model.starts[:3].tolist(), inputs["codes"], strict=True):
        marks[(codes + start).flatten()] = True
    marks[model.buckets(batch["x"].unsqueeze(1)).flatten() + 1 + int(model.starts[3])] = True
    return marks


@pytest.mark.parametrize("clip_norm", [None, 0.02])
@pytest.mark.parametrize("lazy", ["lazy_adam", "rowwise_adagrad"])
def test_lazy_tables_are_the_plain_loop(lazy: str, clip_norm: float | None) -> None:
    changes = {"embedding_optimizer": lazy, "clip_norm": clip_norm, "schedule": "constant", "embedding_decay": 0.4}
    task = task_of(**changes)
    expected = plain(task, lazy, clip_norm, 5)
    trained(task, range(5))
    for (name, mine), other in zip(task.model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=2e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_with_lazy_tables_untouched_rows_stay_and_with_adamw_they_shrink() -> None:
    for kind in ("lazy_adam", "rowwise_adagrad", "adamw"):
        task = task_of(embedding_optimizer=kind)
        before = task.model.embedding.weight.detach().clone()
        batch = batch_of(0)
        others = ~used(task.model, batch, task.fields.inputs(batch["user_index"], batch["item_index"]))
        assert others.any()
        task.step(batch, 0.0)
        assert torch.equal(task.model.embedding.weight[others], before[others]) is (kind != "adamw")


def test_touched_rows_are_counted_from_above() -> None:
    task = task_of()
    for rows in (1, 4, 500):
        batch = batch_of(1, rows)
        marks = used(task.model, batch, task.fields.inputs(batch["user_index"], batch["item_index"]))
        assert int(marks.sum()) <= task.model.touched(rows) <= task.model.embedding.num_embeddings
    assert task.model.touched(500) == USERS + CODES + ITEMS + 5
    assert task.model.touched(2) == 2 + 6 + 2 + 2


@pytest.mark.parametrize("average", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["lazy_adam", "rowwise_adagrad", "adamw"])
def test_a_resumed_run_goes_on_bit_for_bit(kind: str, average: float) -> None:
    changes = {"embedding_optimizer": kind, "average": average, "clip_norm": 0.5}
    whole = trained(task_of(**changes), range(8))
    part = trained(task_of(**changes), range(5))
    resumed = task_of(**changes, seed=9)
    resumed.load(deepcopy(part.weights()), deepcopy(part.state()))
    trained(resumed, range(5, 8))
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[name]), name
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_the_average_is_what_is_judged_and_kept() -> None:
    validation: Any = Batches([batch_of(100 + each) for each in range(3)])
    task = trained(task_of(validation, average=0.5), range(20))
    last = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    figures = task.validate()
    assert any(not torch.equal(tensor, last[name]) for name, tensor in task.weights().items())
    for name, tensor in task.model.state_dict().items():
        assert torch.equal(tensor, last[name]), "training goes on from its own weights"
    other = task_of(validation)
    other.load(task.weights(), None)
    assert other.validate() == figures
    task.load(task.weights(), None)
    assert task.validate() == figures


def test_figures_are_those_of_all_pairs() -> None:
    batches = [batch_of(100 + each) for each in range(3)]
    batches[2]["row_weight"][10:] = 0.0
    task = trained(task_of(Batches(batches)), range(30))
    figures = task.validate()
    task.model.eval()
    with torch.no_grad():
        logits = torch.cat([task._logits(each)[each["row_weight"] > 0] for each in batches])
    target = torch.cat([each["target"][each["row_weight"] > 0] for each in batches])
    positive, negative = logits[target == 1].tolist(), logits[target == 0].tolist()
    right = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert figures["auc"] == pytest.approx(right / (len(positive) * len(negative)), abs=2e-3)  # a bin is 1/2048 wide
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float())
    assert figures["minus_logloss"] == pytest.approx(-float(loss), rel=1e-5)


def test_the_named_figure_chooses_the_epoch() -> None:
    assert (task_of().metric, task_of(stop_on="auc").metric) == ("minus_logloss", "auc")
    none_taken = batch_of(1)
    none_taken["target"] = torch.zeros_like(none_taken["target"])
    assert set(task_of(Batches([none_taken])).validate()) == {"minus_logloss"}
    assert set(task_of(Batches([none_taken]), stop_on="auc").validate()) == {"minus_logloss", "auc"}


def test_an_offset_is_added_to_the_logit() -> None:
    task = task_of()
    task.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(task._logits(batch_of(1, offset=-1.5)), task._logits(batch_of(1)) - 1.5)


def test_embedding_dropout_is_for_training_only() -> None:
    task = task_of(embedding_dropout=0.5)
    with torch.no_grad():
        task.model.train()
        first, second = task._logits(batch_of(1)), task._logits(batch_of(1))
        assert not torch.equal(first, second)
        task.model.eval()
        assert torch.equal(task._logits(batch_of(1)), task._logits(batch_of(1)))


def test_products_in_bfloat16_are_near_those_of_float32_and_leave_float32_gradients() -> None:
    """On the CPU the setting does nothing; what it does on a GPU is run here by its own function."""
    task = task_of(bf16=True)
    with products(torch.device("cpu"), True):
        usual = task._logits(batch_of(1))
    with autocast("cpu", True):
        halved = task._logits(batch_of(1))
    assert halved.dtype == torch.float32
    assert not torch.equal(usual, halved)
    torch.testing.assert_close(usual, halved, rtol=0.02, atol=0.02)
    halved.sum().backward()
    assert {each.grad.dtype for each in task.model.parameters() if each.grad is not None} == {torch.float32}
    task.step(batch_of(2), 0.0)
