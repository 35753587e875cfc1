"""Run by horovodrun in test_sharded.py: matrix factorization whose users are dealt out to the ranks.

`sharded_ranks.py ROOT trains OUTPUT CHECKPOINTS EPOCHS [OUTPUT CHECKPOINTS EPOCHS …]` does one training job after the
other, by least squares where the output's name begins with `ials`. `sharded_ranks.py ROOT agrees` compares two ranks
with ranks that all hold all users, and with one process that has the batches of both; so it does for least squares.
"""

from __future__ import annotations

import sys
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from recsys_spark.config.models import Retrieval
from recsys_spark.ragged import Rows
from recsys_spark.streaming import ExampleStream, Shard, owned_shards, shards
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Alone, Collective, HorovodWorld
from recsys_spark.training.health import NotFinite
from recsys_spark.training.jobs import retrieval
from recsys_spark.training.task import Stream
from recsys_spark.training.tasks.ials import IALSTask
from recsys_spark.training.tasks.negatives import Negatives
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.tasks.snapshot import COLUMNS
from recsys_spark.training.user_rows import UserRows, read_buckets

USERS, ITEMS, BUCKETS, GROUPS, BATCH, DIM = 203, 60, 12, 6, 64, 8
COUNTS = np.append(np.zeros(2, np.int64), np.arange(1, ITEMS - 1))


def settings(**changes: Any) -> Retrieval:
    values = {"dim": DIM, "batch_size": BATCH, "negatives": 30, "init_std": 0.1, "schedule": "constant", "patience": 9}
    return Retrieval(**{**values, "validation_k": 10, **changes})


def write_night(folder: Path) -> None:
    """Tables as the stages before training leave them: examples by groups of buckets, ids, counts."""
    draw = np.random.default_rng(0)
    bucket = np.append([0, 0], draw.integers(0, BUCKETS, USERS - 2)).astype(np.int32)
    users = draw.choice(np.arange(2, USERS - 3), 1_700).astype(np.int32)  # three have no examples
    weight = draw.random(len(users), np.float32) + 0.5
    rows = {"user_index": users, "item_index": draw.integers(2, ITEMS, len(users)).astype(np.int32),
            "time": draw.integers(0, 86_400, len(users)), "weight": weight}  # fmt: skip
    for group in range(GROUPS):
        mine = np.flatnonzero(bucket[users] % GROUPS == group)
        for number, part in enumerate(np.array_split(mine, 2)):
            write(folder / "examples" / f"part-{group:05d}-{number:05d}.parquet", {n: v[part] for n, v in rows.items()})
    index = np.arange(2, USERS, dtype=np.int32)
    write(folder / "ids" / "part-0.parquet", {"index": index, "user_bucket": bucket[2:]})
    stats = {"cut": ["final"] * ITEMS, "item_index": np.arange(ITEMS), "events": COUNTS, "users": COUNTS,
             "recent_users": COUNTS, "earlier_users": COUNTS}  # fmt: skip
    write(folder / "stats" / "part-0.parquet", stats)
    buffer, none = BytesIO(), np.zeros(0, np.int32)  # nothing to choose by: the last epoch is the best
    start = np.zeros(1, np.int64)
    np.savez(buffer, users=none, seen=none, seen_indptr=start, truth=none, truth_indptr=start)
    (folder / "validation.npz").write_bytes(buffer.getvalue())


def write(path: Path, columns: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)


def validation() -> Validation:
    draw, users = np.random.default_rng(1), np.arange(2, 60)
    seen, truth = (Rows.from_lists([np.unique(draw.integers(2, ITEMS, 5)) for _ in users]) for _ in range(2))
    return Validation(users, seen, truth)


def files(folder: Path) -> list[tuple[str, int, int]]:
    paths = sorted((folder / "examples").iterdir())
    return [(path.as_uri(), pq.ParquetFile(path).metadata.num_rows, int(path.name.split("-")[1])) for path in paths]


def train(folder: Path, output: str, checkpoints: str, epochs: int, world: Collective) -> None:
    """The training job, as the worker runs it."""
    snapshot = {"cut": "final", "time": 86_400, "files": files(folder)}
    fit = {"fit": "ials", "ials": {"sweeps": epochs}} if output.startswith("ials") else {}
    values = settings(epochs=epochs, **fit).model_dump(mode="json")
    job = {"settings": values, "snapshots": [snapshot], "output": output, "checkpoints": checkpoints,
           "validation": "validation.npz", "item_stats": "stats", "user_ids": "ids",
           "users": USERS, "items": ITEMS, "buckets": BUCKETS, "user_groups": GROUPS, "whole_users": False,
           "scratch": "scratch"}  # fmt: skip
    retrieval.run(job, Storage(folder.as_uri()), world, lambda tag, step, **values: None)


def agrees(world: HorovodWorld, folder: Path) -> None:
    """All comparisons of two ranks."""
    bucket_of = read_buckets(Storage(folder.as_uri()), "ids", USERS, BUCKETS)
    owner = np.arange(GROUPS) % 2
    mine = UserRows.of(bucket_of, owner[np.arange(BUCKETS) % GROUPS] == world.rank)
    shards = owned_shards(files(folder), owner.tolist(), 2, BATCH)
    batches = [list(ExampleStream(shard, COLUMNS, BATCH, 1, rank).epoch(0)) for rank, shard in enumerate(shards)]
    assert len(batches[0]) == len(batches[1]) > 10
    for way in ("sparse", "dense"):
        same_as_replicated(world, mine, UserRows.of(bucket_of), batches[world.rank], way)
    clipped = {"clip_norm": 1e-3, "optimizer": "rowwise_adagrad"}
    for changes in (
        {"loss": "bce"},
        {"loss": "bce", "user_bias": True},
        {"optimizer": "rowwise_adagrad"},
        {"optimizer": "sgd", "learning_rate": 0.08},
        {"negatives": 0},
        clipped,
    ):
        same_as_alone(world, mine, UserRows.of(bucket_of), batches, settings(**changes))
    nobody_updates_when_one_is_ill(world, mine, batches[world.rank][0])
    least_squares_agree(world, folder, mine, UserRows.of(bucket_of))


def task_of(world: Collective, rows: UserRows, chosen: Retrieval) -> RetrievalTask:
    task = RetrievalTask(USERS, ITEMS, COUNTS, torch.zeros(ITEMS), 86_400, validation(), chosen, world, rows=rows)
    task.begin(0)
    return task


def same_as_replicated(
    world: HorovodWorld, mine: UserRows, whole: UserRows, batches: list[dict[str, Tensor]], way: str
) -> None:
    """The same batches and draws give the same rows, whether a rank holds its own users or all; and what that sends."""
    chosen = settings(exchange=way)
    sharded, replicated = task_of(world, mine, chosen), task_of(world, whole, chosen)
    before = dict(world.sent)
    for batch in batches:
        sharded.step(batch, 0.0)
    sent = {name: n - before.get(name, 0) for name, n in world.sent.items() if n > before.get(name, 0)}
    assert sent == expected_bytes(world, chosen, batches, way), sent
    before = dict(world.sent)
    for batch in batches:
        replicated.step(batch, 0.0)
    assert world.sent["user"] > before.get("user", 0)
    compare(sharded, replicated, 0.0)
    assert abs(sharded.validate()[sharded.metric] - replicated.validate()[sharded.metric]) < 1e-9


def expected_bytes(
    world: HorovodWorld, chosen: Retrieval, batches: list[dict[str, Tensor]], way: str
) -> dict[str, int]:
    """What two ranks must send for items and biases, and nothing else."""
    if way == "dense":  # of two ranks, each sends as much as it adds up: all rows, each with a number that counts
        return {"item": len(batches) * ITEMS * (DIM + 1) * 4, "bias": len(batches) * ITEMS * 2 * 4}
    negatives = Negatives(torch.from_numpy(COUNTS), chosen)
    seed = np.random.SeedSequence([chosen.seed, 0, world.rank]).generate_state(1)[0]
    negatives.random.manual_seed(int(seed))
    touched = 0
    for batch in batches:
        positives = batch["item_index"].long()
        touched += len(torch.unique(torch.cat([positives, negatives.draw(positives).items])))
    return {"item": 4 * (1 + DIM) * touched, "bias": 4 * (1 + 1) * touched}  # an index and the values a row


def same_as_alone(
    world: HorovodWorld, mine: UserRows, whole: UserRows, batches: list[list[dict[str, Tensor]]], chosen: Retrieval
) -> None:
    """Two ranks with a batch each end with the rows of one process that has both batches in one."""
    sharded, alone = task_of(world, mine, chosen), task_of(Alone(), whole, chosen)
    for step, both in enumerate(zip(*batches, strict=True)):
        for task, batch in (
            (sharded, both[world.rank]),
            (alone, {n: torch.cat([b[n] for b in both]) for n in both[0]}),
        ):
            task.negatives.random.manual_seed(step)  # the same draws
            task.step(batch, 0.0)
    compare(sharded, alone, 1e-6)  # sums are in another order


def compare(sharded: RetrievalTask, whole: RetrievalTask, tolerance: float) -> None:
    users = sharded.rows.indexes.long()
    assert 60 < len(users) < 140
    ours, theirs = sharded.model.user.weight, whole.model.user.weight[whole.rows.of_users(users)]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    torch.testing.assert_close(sharded.model.item.weight, whole.model.item.weight, rtol=0, atol=tolerance)
    torch.testing.assert_close(sharded.model.bias.weight, whole.model.bias.weight, rtol=0, atol=tolerance)
    first = torch.empty_like(ours)
    sharded.rows.fill(first, sharded.settings.seed, sharded.settings.init_std)
    assert (ours - first).abs().mean() > 0.01  # they have moved
    assert not ours[0].any()  # but for the padding


def nobody_updates_when_one_is_ill(world: HorovodWorld, mine: UserRows, batch: dict[str, Tensor]) -> None:
    """A rank whose users' gradients are not finite, which nobody else sees, stops all ranks before the update."""
    task = task_of(world, mine, settings())

    def spoil(module: torch.nn.Module, inputs: object, output: Tensor) -> None:
        output.register_hook(lambda gradient: gradient * (torch.nan if world.rank == 1 else 1.0))

    task.model.user.register_forward_hook(spoil)
    before = task.model.item.weight.detach().clone()
    with pytest.raises(NotFinite):
        task.step(batch, 0.0)
    assert torch.equal(before, task.model.item.weight)


def least_squares_agree(world: HorovodWorld, folder: Path, mine: UserRows, all_users: UserRows) -> None:
    """Two ranks solve for the rows that one process does, and send sums of items only; a bad weight stops both."""
    owner = [number % 2 for number in range(GROUPS)]
    chosen = settings(fit="ials", ials={"unobserved_weight": 0.3, "cg_steps": 3})
    shard, everything = owned_shards(files(folder), owner, 2, BATCH)[world.rank], shards(all_files(folder), 1, BATCH)[0]
    sharded, alone = (solver(each, rows, chosen) for each, rows in ((world, mine), (Alone(), all_users)))
    before = dict(world.sent)
    read, whole = batches_of(sharded, shard, world.rank), batches_of(alone, everything, 0)
    assert [len(read), len(whole)] == [2, 2]
    for sweep in range(4):
        for task, blocks in ((sharded, read), (alone, whole)):
            task.begin(sweep)
            for block in blocks.epoch(sweep):
                task.step(block, 0.0)
    sent = {name: n - before.get(name, 0) for name, n in world.sent.items() if n > before.get(name, 0)}
    assert sent.pop("figures") < 200
    sums = {"weights of items": ITEMS * 8, "gram": 4 * DIM * DIM * 8, "sums of items": 4 * 4 * ITEMS * (DIM + 1) * 4}
    assert sent == sums, sent
    users = alone.model.user.weight[all_users.of_users(mine.indexes.long())]
    torch.testing.assert_close(sharded.model.user.weight, users, rtol=0, atol=1e-5)
    torch.testing.assert_close(sharded.model.item.weight, alone.model.item.weight, rtol=0, atol=1e-5)
    assert float(alone.model.item.weight.abs().mean()) > 0.01
    assert torch.equal(world.sum(sharded.model.item.weight), 2 * sharded.model.item.weight)  # the same bits on both
    assert abs(sharded.validate()[sharded.metric] - alone.validate()[alone.metric]) < 1e-6
    if world.rank == 1:
        sharded._halves[1].pairs.weights[0] = torch.nan
    with pytest.raises(NotFinite) as bad:
        sharded.step({"side": torch.tensor(1), "block": torch.tensor(0)}, 0.0)
    assert bad.value.mine is (world.rank == 1)


def solver(world: Collective, rows: UserRows, chosen: Retrieval) -> IALSTask:
    return IALSTask(USERS, ITEMS, COUNTS, torch.zeros(ITEMS), 86_400, validation(), chosen, world, rows=rows)


def batches_of(task: IALSTask, shard: Shard, rank: int) -> Stream:
    """Blocks of a task that has read its shard."""
    stream = ExampleStream(shard, COLUMNS, BATCH, 1, rank)
    task.examples = partial(stream.epoch, 0, shuffle=False)
    return task.batches(stream)


def all_files(folder: Path) -> list[tuple[str, int]]:
    return [(url, rows) for url, rows, _ in files(folder)]


def main() -> None:
    torch.set_num_threads(1)
    world, folder = HorovodWorld(), Path(sys.argv[1])
    if sys.argv[2] == "agrees":
        agrees(world, folder)
    else:
        for output, checkpoints, epochs in zip(*[iter(sys.argv[3:])] * 3, strict=True):
            train(folder, output, checkpoints, int(epochs), world)
    print(f"rank {world.rank} of {world.size} is well")


if __name__ == "__main__":
    main()
