"""DeepFM in parts (``models.split``) beside the plain module: a whole catalogue, and 500 candidates a user.

Of a whole catalogue both are measured: the logits of all pairs, and each user's best (``models.contenders``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # users are dealt out to threads, as buckets are to workers

import numpy as np
import torch
from parts import THREADS, side_by_side, tell

from recsys_spark.models.contenders import contenders
from recsys_spark.models.deepfm import DeepFM, DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.models.split import SplitDeepFM
from recsys_spark.ragged import Rows
from recsys_spark.scoring.lists import best

DIM, HIDDEN = 16, [256, 256, 256]
USER_SIZES, ITEM_SIZES = [50_000, 8, 3, 22], [20_000, 500, 80, 20]
ROWS_AT_ONCE = 16_384
CANDIDATES, NUMBERS = 500, 12
K, STEPS = 100, 300  # of a list; of the training
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


def train(model: DeepFM, fields: FieldTables, users: int, items: int) -> None:
    """Fit labels that follow from planted vectors of the fields' codes: weights of a network that has learned."""
    draw = torch.Generator().manual_seed(5)
    torch.set_num_threads(THREADS)
    sides = fields.user.codes, fields.item.codes
    planted = [[torch.randn(int(table.max()) + 1, 8, generator=draw) for table in tables] for tables in sides]

    def total(side: int, index: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [each[table[index][:, 0].long()] for each, table in zip(planted[side], sides[side], strict=True)]
        ).sum(0)

    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    model.train()
    for _ in range(STEPS):
        user, item = (torch.randint(size, (4096,), generator=draw) for size in (users, items))
        ours, theirs = total(0, user), total(1, item)
        truth = 2 * torch.tanh((ours * theirs).sum(1) / 12) + torch.relu(ours[:, 0] + theirs[:, 1]) - 2
        label = (torch.rand(4096, generator=draw) < torch.sigmoid(truth)).float()
        optimizer.zero_grad()
        found = model(numbers=torch.zeros(4096, 0), **fields.inputs(user, item))
        torch.nn.functional.binary_cross_entropy_with_logits(found, label).backward()
        optimizer.step()
    model.eval()


def catalogue(scale: str) -> dict[str, object]:
    users, items = (8, 10_000) if scale == "small" else (32, 20_000)
    model, fields = model_of(0, 2_000, items)
    train(model, fields, 2_000, items)
    split = SplitDeepFM(model, fields)
    index, of_user = torch.arange(items), torch.arange(users).repeat_interleave(items)
    of_item, none = index.repeat(users), torch.zeros(users * items, 0)
    passed: list[int] = []

    def shared_out(some: Callable[[torch.Tensor], np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        torch.set_num_threads(1)  # the pool has the others
        return np.concatenate(list(pool.map(some, torch.arange(users).chunk(THREADS))))

    def in_parts() -> np.ndarray[Any, Any]:
        of_items = split.items(index)
        return shared_out(lambda part: split.catalogue(split.users(part), of_items))

    def lists() -> np.ndarray[Any, Any]:
        of_items = split.items(index)

        def some(part: torch.Tensor) -> np.ndarray[Any, Any]:
            owner, item, logits = contenders(split, split.users(part), of_items, K, Rows.empty(len(part)))
            passed.append(len(item))
            return item[best(owner, item, logits, len(part), K)]

        return shared_out(some)

    work: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain(model, fields, of_user, of_item, none),
        "plain lists": lambda: plain(model, fields, of_user, of_item, none).view(users, items).topk(K),
        "split": in_parts,
        "lists": lists,
    }
    taken = side_by_side(work, 3)
    logits, found = work["plain"]().numpy().reshape(users, items), work["lists"]()
    difference = np.abs(logits - work["split"]()).max()
    worst = np.take_along_axis(logits, found, 1).min(1)
    missed = (np.sort(logits, axis=1)[:, -K] - worst).max()  # more than rounding: an item that should be there is not
    ratios = {name: taken[f"plain{of}"].wall / taken[name].wall for name, of in (("split", ""), ("lists", " lists"))}
    print(
        f"  catalogue: {users} users × {items:,} items, 8 fields, d = {DIM}, MLP {HIDDEN}: all logits, plain "
        f"{users * items / taken['plain'].wall:,.0f} pairs/s, in parts {users * items / taken['split'].wall:,.0f}, "
        f"ratio {ratios['split']:.2f}, largest difference {difference:.1e}\n"
        f"  ... the best {K}: plain {users * items / taken['plain lists'].wall:,.0f} pairs/s, in parts "
        f"{users * items / taken['lists'].wall:,.0f}, ratio {ratios['lists']:.2f}; the last of a list is at most "
        f"{missed:.1e} worse; {sum(passed[-THREADS:]) / users:,.0f} items a user went through in float32",
        flush=True,
    )
    return {
        "split_deepfm_over_plain": round(ratios["lists"], 2),
        "split_deepfm_logits_over_plain": round(ratios["split"], 2),
        "split_deepfm_max_abs_diff": float(f"{difference:.2e}"),
    }


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
