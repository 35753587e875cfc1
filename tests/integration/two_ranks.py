"""Run by horovodrun in test_two_ranks.py: what ranks do together, checked inside each rank."""

from __future__ import annotations

import sys

import torch

from recsys_spark.training.collective import HorovodWorld
from recsys_spark.training.optim import TableUpdates


def sums(world: HorovodWorld) -> None:
    """Dense and sparse sums are those of all ranks, on each rank; also where one rank touched nothing."""
    assert world.sum(torch.tensor([1.0 + world.rank])).item() == sum(1.0 + r for r in range(world.size))
    rows = torch.tensor([[1, 3, 3]]) if world.rank == 0 else torch.tensor([[3, 5, 0]])
    values = torch.arange(6.0).reshape(3, 2) + 10 * world.rank
    mine = torch.sparse_coo_tensor(rows, values, (6, 2), check_invariants=True)
    total = world.sum_sparse(mine, "both").to_dense()
    other = torch.zeros(6, 2)
    other.index_add_(0, torch.tensor([1, 3, 3]), torch.arange(6.0).reshape(3, 2))
    other.index_add_(0, torch.tensor([3, 5, 0]), torch.arange(6.0).reshape(3, 2) + 10)
    assert torch.equal(total, other), total
    empty = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 2), (6, 2))
    total = world.sum_sparse(mine if world.rank == 0 else empty, "one").to_dense()
    assert torch.equal(total[1], torch.tensor([0.0, 1.0])), total


def updates(world: HorovodWorld) -> None:
    """Two ranks with half a batch each end with the weights of one process with the whole batch."""
    for sparse in (True, False):
        updates_of(world, sparse)


def updates_of(world: HorovodWorld, sparse: bool) -> None:
    """With sparse gradients, of which touched rows travel, and with dense ones."""
    torch.manual_seed(0)
    start = torch.randn(8, 4)
    batch = torch.tensor([1, 2, 2, 5, 6, 1])

    def table() -> torch.nn.Embedding:
        return torch.nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=sparse)

    from recsys_spark.training.collective import Alone

    whole, shared = table(), table()
    alone = TableUpdates([whole], Alone())
    together = TableUpdates([shared], world)
    for _ in range(3):
        (whole(batch).square().sum() / 6).backward()
        alone.step(0.1)
        mine = batch[world.rank :: world.size]
        (shared(mine).square().sum() / 6).backward()
        together.step(0.1)
    assert torch.allclose(whole.weight, shared.weight, atol=1e-6)
    assert torch.equal(world.sum(shared.weight.detach()), 2 * shared.weight.detach())


def neumf(world: HorovodWorld) -> None:
    """NeuMF's tables and layers too, weight decay included."""
    import numpy as np

    from recsys_spark.config import Retrieval
    from recsys_spark.training.collective import Alone
    from recsys_spark.training.tasks.neumf import NeuMFTask

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
    {"sums": sums, "updates": updates, "neumf": neumf, "dies": dies}[sys.argv[1]](joined)
    print(f"rank {joined.rank} of {joined.size} is well")
