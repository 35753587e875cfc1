"""Rows of users on a rank: where they lie, what they begin with, and how they move to another number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from recsys_spark.config.models import Retrieval
from recsys_spark.errors import RecsysError
from recsys_spark.tables.arrays import save_blocks
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Alone
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.user_rows import ELSEWHERE, UserRows, first_rows, read_buckets

USERS, ITEMS, BUCKETS, DIM = 90, 20, 7, 4
BUCKET_OF = np.random.default_rng(3).integers(0, BUCKETS, USERS).astype(np.uint16)


def dealt(ranks: int) -> list[UserRows]:
    return [UserRows.of(BUCKET_OF, np.arange(BUCKETS) % ranks == rank) for rank in range(ranks)]


def task_of(rows: UserRows, optimizer: str) -> RetrievalTask:
    settings = Retrieval(dim=DIM, batch_size=16, negatives=8, init_std=0.1, optimizer=optimizer)
    return RetrievalTask(USERS, ITEMS, np.ones(ITEMS, int), torch.zeros(ITEMS), 10, None, settings, Alone(), rows=rows)


def batch_of(rows: UserRows) -> dict[str, Tensor]:
    draw = np.random.default_rng(len(rows))
    users = draw.choice(rows.indexes.numpy()[1:], 16)
    numbers = {"user_index": users, "item_index": draw.integers(2, ITEMS, 16), "time": np.zeros(16, int)}
    batch = {name: torch.from_numpy(values) for name, values in numbers.items()}
    return {**batch, "weight": torch.ones(16), "row_weight": torch.ones(16)}


@pytest.mark.parametrize("ranks", [1, 2, 3, 9])
def test_every_user_is_on_one_rank_and_the_padding_on_all(ranks: int) -> None:
    held = torch.cat([rows.indexes[1:] for rows in dealt(ranks)])
    assert sorted(held.tolist()) == list(range(1, USERS))
    for rows in dealt(ranks):
        assert rows.indexes[0] == 0
        assert rows.of_users(rows.indexes.long()).tolist() == list(range(len(rows)))
        assert (rows.place == ELSEWHERE).sum() == USERS - len(rows)
        for bucket, (start, stop) in rows.slices.items():
            users = rows.indexes[start:stop].numpy()
            assert (BUCKET_OF[users] == bucket).all()
            assert (np.diff(users) > 0).all()
        assert sum(stop - start for start, stop in rows.slices.values()) == len(rows) - 1


def test_a_user_of_another_rank_is_told() -> None:
    mine, other = dealt(2)
    with pytest.raises(RecsysError, match=rf"user {int(other.indexes[1])} is of a bucket that another rank holds"):
        mine.of_users(torch.tensor([0, int(mine.indexes[1]), int(other.indexes[1])]))


def test_first_rows_are_the_same_whoever_holds_them() -> None:
    whole = UserRows.of(BUCKET_OF)
    table = torch.empty(USERS, DIM)
    whole.fill(table, 5, 0.1)
    assert not table[0].any()
    assert table[1:].std() == pytest.approx(0.1, rel=0.2)
    assert len(table[1:].unique()) > 0.99 * (USERS - 1) * DIM
    for rows in dealt(3):
        part = torch.empty(len(rows), DIM)
        rows.fill(part, 5, 0.1)
        assert torch.equal(part, table[whole.of_users(rows.indexes.long())])


def test_first_rows_follow_from_seed_table_and_bucket_and_do_not_move_when_users_come() -> None:
    base = first_rows("user", 3, 6, DIM, 1, 1.0)
    assert torch.equal(first_rows("user", 3, 9, DIM, 1, 1.0)[:6], base)
    for other in (("user", 4, 6, DIM, 1), ("user", 3, 6, DIM, 2), ("item", 3, 6, DIM, 1)):
        assert not torch.isclose(first_rows(*other, 1.0), base).any()


def test_buckets_come_from_the_ids_and_others_are_spread(tmp_path: Path) -> None:
    for number, index in enumerate(([2, 5], [4])):
        ids = pa.table({"index": pa.array(index, pa.int32()), "user_id": ["a"] * len(index),
                        "user_bucket": pa.array([6] * len(index), pa.int32())})  # fmt: skip
        pq.write_table(ids, tmp_path / f"part-{number}.parquet")
    assert read_buckets(Storage(str(tmp_path)), "", 8, 4).tolist() == [0, 1, 6, 3, 6, 6, 2, 3]


@pytest.mark.parametrize("optimizer", ["adam", "rowwise_adagrad"])
def test_rows_and_their_optimizer_state_move_to_another_number_of_ranks(optimizer: str) -> None:
    before = [task_of(rows, optimizer) for rows in dealt(3)]
    for task in before:
        task.begin(0)
        task.step(batch_of(task.rows), 0.0)
    saved: dict[str, Any] = {}
    for task in before:
        for key, part in task.parts():
            assert key not in saved
            saved[key] = {name: tensor.clone() for name, tensor in part.items()}
    assert len(saved) == len(np.unique(BUCKET_OF))
    assert sum(any(t.abs().sum() > 0 for n, t in part.items() if n != "weight") for part in saved.values()) > 3
    for rows in (*dealt(2), UserRows.of(BUCKET_OF)):
        task = task_of(rows, optimizer)
        task.load(before[0].weights(), before[0].state())
        task.load_parts(saved.__getitem__)
        for key, part in task.parts():
            assert part.keys() == saved[key].keys() > {"weight"}
            assert all(torch.equal(tensor, saved[key][name]) for name, tensor in part.items())
        assert task.updates.state_dict()["user"]["steps"] == 1
        task.step(batch_of(rows), 0.0)  # and it goes on


def test_a_part_of_other_users_is_refused() -> None:
    task = task_of(UserRows.of(BUCKET_OF), "adam")
    parts = dict(task.parts())
    short = {key: {name: tensor[1:] for name, tensor in part.items()} for key, part in parts.items()}
    with pytest.raises(RecsysError, match="bucket 0 holds"):
        task.load_parts(short.__getitem__)


def test_blocks_make_the_file_that_numpy_makes(tmp_path: Path) -> None:
    storage, values = Storage(str(tmp_path)), np.random.default_rng(0).random((10, 3), np.float32)
    save_blocks(storage, "x/blocks.npy", values.shape, (values[start : start + 4] for start in range(0, 10, 4)))
    np.save(tmp_path / "x" / "whole.npy", values)
    assert (tmp_path / "x" / "blocks.npy").read_bytes() == (tmp_path / "x" / "whole.npy").read_bytes()
    with pytest.raises(ValueError, match="4 rows were given, 10 were promised"):
        save_blocks(storage, "x/short.npy", values.shape, [values[:4]])
    assert not (tmp_path / "x" / "short.npy").exists()
