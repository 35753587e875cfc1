"""DeepFM in parts (``models.split``) beside the plain module: a whole catalogue, and 500 candidates a user."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # users are dealt out to threads, as buckets are to workers

import numpy as np
import torch
from parts import THREADS, side_by_side, tell

from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.models.split import SplitDeepFM

DIM, HIDDEN = 16, [256, 256, 256]
USER_SIZES, ITEM_SIZES = [50_000, 8, 3, 22], [20_000, 500, 80, 20]
ROWS_AT_ONCE = 16_384
CANDIDATES, NUMBERS = 500, 12
pool = ThreadPoolExecutor(THREADS)


def model_of(numbers: int, users: int, items: int) -> tuple[DeepFM, FieldTables]:
    random = np.random.default_rng(1)
    sides = []
    for rows, sizes in ((users, USER_SIZES), (items, ITEM_SIZES)):
        sides.append(SideTables([random.integers(1, size, rows).astype(np.int32) for size in sizes]))
    fields = FieldTables(*sides)
    torch.manual_seed(1)
    model = DeepFM(DeepFMSpec([*USER_SIZES, *ITEM_SIZES], fields.lengths, numbers, 16, DIM, HIDDEN, 0.1))
    model.fit_numbers(torch.randn(10_000, numbers))
    return model.eval(), fields


@torch.no_grad()
def plain(
    model: DeepFM, fields: FieldTables, users: torch.Tensor, items: torch.Tensor, numbers: torch.Tensor
) -> torch.Tensor:
    torch.set_num_threads(THREADS)
    parts = []
    for at in range(0, len(users), ROWS_AT_ONCE):
        part = slice(at, at + ROWS_AT_ONCE)
        parts.append(model(numbers=numbers[part], **fields.inputs(users[part], items[part])))
    return torch.cat(parts)


def catalogue(scale: str) -> dict[str, object]:
    users, items = (8, 10_000) if scale == "small" else (32, 20_000)
    model, fields = model_of(0, users, items)
    split = SplitDeepFM(model, fields)
    index, of_user = torch.arange(items), torch.arange(users).repeat_interleave(items)
    of_item, none = index.repeat(users), torch.zeros(users * items, 0)

    def in_parts() -> np.ndarray[Any, Any]:
        torch.set_num_threads(1)  # the pool has the others

        of_items = split.items(index)

        def some(part: torch.Tensor) -> np.ndarray[Any, Any]:
            return split.catalogue(split.users(part), of_items)

        return np.concatenate(list(pool.map(some, torch.arange(users).chunk(THREADS))))

    work: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(model, fields, of_user, of_item, none),
        "split": in_parts,
    }
    taken = side_by_side(work, 3)
    difference = np.abs(work["plain"]().numpy() - work["split"]().reshape(-1)).max()
    ratio = taken["plain"].wall / taken["split"].wall
    print(
        f"  catalogue: {users} users × {items:,} items, 8 fields, d = {DIM}, MLP {HIDDEN}: plain "
        f"{users * items / taken['plain'].wall:,.0f} pairs/s, in parts {users * items / taken['split'].wall:,.0f}, "
        f"ratio {ratio:.2f}, largest difference {difference:.1e}",
        flush=True,
    )
    return {"split_deepfm_over_plain": round(ratio, 2), "split_deepfm_max_abs_diff": float(f"{difference:.2e}")}


def rerank(scale: str) -> dict[str, object]:
    users, items = (64 if scale == "small" else 256), 20_000
    model, fields = model_of(NUMBERS, users, items)
    split, random = SplitDeepFM(model, fields), torch.Generator().manual_seed(1)
    of_user = torch.arange(users).repeat_interleave(CANDIDATES)
    of_item = torch.randint(items, (users * CANDIDATES,), generator=random)
    numbers = torch.randn(users * CANDIDATES, NUMBERS, generator=random)
    of_items = split.items(torch.arange(items))  # once a worker process, for all users

    def in_parts() -> np.ndarray[Any, Any]:
        torch.set_num_threads(1)  # the pool has the others

        def some(part: torch.Tensor) -> np.ndarray[Any, Any]:
            rows = slice(int(part[0]) * CANDIDATES, (int(part[-1]) + 1) * CANDIDATES)
            owner = (of_user[rows] - part[0]).numpy()
            return split.pairs(split.users(part), of_items, owner, of_item[rows].numpy(), numbers[rows].numpy())

        return np.concatenate(list(pool.map(some, torch.arange(users).chunk(THREADS))))

    work: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(model, fields, of_user, of_item, numbers),
        "split": in_parts,
    }
    taken = side_by_side(work, 3)
    ratio = taken["plain"].wall / taken["split"].wall
    print(
        f"  re-rank: {CANDIDATES} candidates of {users} users, {NUMBERS} pair features: plain "
        f"{users / taken['plain'].wall:,.1f} users/s, in parts {users / taken['split'].wall:,.1f}, ratio {ratio:.2f}, "
        f"largest difference {np.abs(work['plain']().numpy() - work['split']()).max():.1e}",
        flush=True,
    )
    return {"rerank_users_per_s": round(users / taken["split"].wall, 1), "rerank_over_plain": round(ratio, 2)}


def run(scale: str) -> None:
    tell({**catalogue(scale), **rerank(scale)})
