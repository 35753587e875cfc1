"""Run by horovodrun in test_two_ranks.py: what ranks do together, checked inside each rank."""

from __future__ import annotations

import os
import sys
import traceback
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from recsys_spark.config import Ranker, Retrieval
from recsys_spark.models.deepfm import DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.training.collective import Alone, HorovodWorld
from recsys_spark.training.optim import TableUpdates
from recsys_spark.training.tasks.neumf import NeuMFTask
from recsys_spark.training.tasks.ranker import RankerTask


def sums(world: HorovodWorld) -> None:
    """Dense and sparse sums are those of all ranks, on each rank; also where one rank touched nothing."""
    assert world.sum(torch.tensor([1.0 + world.rank])).item() == sum(1.0 + r for r in range(world.size))
    rows = torch.tensor([[1, 3, 3]]) if world.rank == 0 else torch.tensor([[3, 5, 0]])
    values = torch.arange(6.0).reshape(3, 2) + 10 * world.rank
    mine = torch.sparse_coo_tensor(rows, values, (6, 2), check_invariants=True)
    narrow = torch.sparse_coo_tensor(rows[:, :2], 1.0 + torch.arange(2.0).reshape(2, 1), (9, 1), check_invariants=True)
    both = world.sum_sparse({"both": mine, "narrow": narrow})()
    total = both["both"].to_dense()
    other = torch.zeros(6, 2)
    other.index_add_(0, torch.tensor([1, 3, 3]), torch.arange(6.0).reshape(3, 2))
    other.index_add_(0, torch.tensor([3, 5, 0]), torch.arange(6.0).reshape(3, 2) + 10)
    assert torch.equal(total, other), total
    assert both["narrow"].to_dense().flatten().tolist() == [0, 1, 0, 3, 0, 2, 0, 0, 0], both["narrow"]
    empty = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 2), (6, 2))
    total = world.sum_sparse({"one": mine if world.rank == 0 else empty})()["one"].to_dense()
    assert torch.equal(total[1], torch.tensor([0.0, 1.0])), total


def updates(world: HorovodWorld) -> None:
    """Two ranks with half a batch each end with the weights of one process with the whole batch."""
    for kind in ("adam", "rowwise_adagrad"):
        for clip_norm in (None, 0.5):
            for sparse, way in ((True, "sparse"), (True, "dense"), (False, "sparse")):
                updates_of(world, sparse, (kind, 0.1, [way]), clip_norm)


def updates_of(world: HorovodWorld, sparse: bool, how: tuple[Any, ...], clip_norm: float | None) -> None:
    """With sparse gradients, of which touched rows travel or whole tables, and with dense ones."""
    torch.manual_seed(0)
    start = torch.randn(8, 4)
    batch = torch.tensor([1, 2, 2, 5, 6, 1])

    def table() -> torch.nn.Embedding:
        return torch.nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=sparse)

    whole, shared = table(), table()
    alone = TableUpdates([whole], Alone(), ["table"], *how)
    together = TableUpdates([shared], world, ["table"], *how)
    for _ in range(3):
        (whole(batch).square().sum() / 6).backward()
        alone.step(0.1, clip_norm)
        mine = batch[world.rank :: world.size]
        (shared(mine).square().sum() / 6).backward()
        together.step(0.1, clip_norm)
    assert torch.allclose(whole.weight, shared.weight, atol=1e-6), (sparse, how, clip_norm)
    assert torch.equal(shared.weight[[0, 3, 4, 7]], start[[0, 3, 4, 7]]) is sparse
    assert torch.equal(world.sum(shared.weight.detach()), 2 * shared.weight.detach())


def ranker(world: HorovodWorld) -> None:
    """A DeepFM on two ranks with half a batch each is that of one process, for every optimizer of its tables."""
    for kind in ("adamw", "lazy_adam", "rowwise_adagrad"):
        for exchange in ("sparse", "dense") if kind != "adamw" else ("auto",):
            for clip_norm in (None, 0.05):
                ranker_of(world, Ranker(
                    dim=4, hidden=[6], dropout=0.0, buckets=4, batch_size=8, learning_rate=0.05, clip_norm=clip_norm,
                    embedding_optimizer=kind, exchange=exchange, embedding_decay=0.4, schedule="constant",
                ))  # fmt: skip


def ranker_of(world: HorovodWorld, settings: Ranker) -> None:
    """With one setting."""
    draw = torch.Generator().manual_seed(1)
    index = np.arange(20, dtype=np.int32)
    fields = FieldTables(SideTables([index]), SideTables([index]))
    spec = DeepFMSpec([20, 20], [1, 1], 1, settings.buckets, settings.dim, settings.hidden, 0.0)
    sample = torch.linspace(-2, 2, 50).unsqueeze(1)
    validation: Any = SimpleNamespace(epoch=lambda epoch, shuffle: iter([part(batches[-1], world)]))
    batches = [
        {
            "user_index": torch.randint(0, 20, (16,), generator=draw),
            "item_index": torch.randint(0, 20, (16,), generator=draw),
            "target": torch.randint(0, 2, (16,), generator=draw),
            "x": torch.randn(16, generator=draw),
            "row_weight": torch.ones(16),
        }
        for _ in range(5)
    ]
    together = RankerTask(spec, fields, ["x"], sample, validation, settings, world)
    validation = SimpleNamespace(epoch=lambda epoch, shuffle: iter([batches[-1]]))
    alone = RankerTask(spec, fields, ["x"], sample, validation, settings, Alone())
    for batch in batches:
        alone.step(batch, 0.0)
        together.step(part(batch, world), 0.0)
    for (name, mine), other in zip(together.model.named_parameters(), alone.model.parameters(), strict=True):
        assert torch.allclose(mine, other, atol=2e-5), (settings, name, (mine - other).abs().max())
        assert torch.equal(world.sum(mine.detach()), 2 * mine.detach()), name
    for name, figure in together.validate().items():
        assert abs(figure - alone.validate()[name]) < 1e-3, name


def part(batch: dict[str, torch.Tensor], world: HorovodWorld) -> dict[str, torch.Tensor]:
    """This rank's half of a batch."""
    return {name: values[world.rank :: world.size] for name, values in batch.items()}


def neumf(world: HorovodWorld) -> None:
    """NeuMF's tables and layers too, weight decay included."""
    counts = np.array([0, 0, 5, 3, 2, 1, 4])
    settings = Retrieval(model="neumf", loss="bce", negatives=0, dim=3, init_std=0.5, learning_rate=0.01)
    prior = torch.from_numpy(counts + 0.1).log().float()
    whole, shared = (NeuMFTask(6, 7, counts, prior, 9, None, settings, each) for each in (Alone(), world))
    pairs = {"user_index": [2, 2, 3, 5, 4, 5], "item_index": [2, 3, 2, 6, 4, 5], "time": [9] * 6}
    batch = {name: torch.tensor(values) for name, values in pairs.items()}
    batch |= {"weight": torch.ones(6), "row_weight": torch.tensor([1.0, 1, 1, 1, 1, 0])}
    for _ in range(3):
        whole.step(batch, 0.0)
        shared.step({name: values[world.rank :: world.size] for name, values in batch.items()}, 0.0)
    for name, expected in whole.weights().items():
        found = shared.weights()[name]
        assert torch.allclose(found, expected, atol=1e-5), name
        assert torch.equal(world.sum(found), 2 * found), name


def dies(world: HorovodWorld) -> None:
    """One rank ends in an error while the other waits for it."""
    if world.rank == 1:
        sys.exit("recsys-spark: planted error on rank 1")
    world.sum(torch.ones(1))


if __name__ == "__main__":
    joined = HorovodWorld()
    assert joined.size == 2
    cases = {"sums": sums, "updates": updates, "ranker": ranker, "neumf": neumf, "dies": dies}
    try:
        cases[sys.argv[1]](joined)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # as a worker does: Horovod's own farewell waits for the other rank
    print(f"rank {joined.rank} of {joined.size} is well")
