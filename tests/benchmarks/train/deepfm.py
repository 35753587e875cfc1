"""Our DeepFM's training step beside that of deepctr-torch, with the same fields, sizes, batches and threads.

The peer gets ready rows; ours gets indexes of users and items, and looks their fields up, as it does in a night. The
peer's L2 is off, which by default reads all tables once more each step; its optimizer is the Adam that its ``compile``
makes. Its ``fit`` is not timed: it puts batches together row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from parts import THREADS, need, side_by_side, tell
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Ranker
from recsys_spark.models.deepfm import DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.training.collective import Alone
from recsys_spark.training.tasks.ranker import RankerTask

NUMBER = "number"
USERS, ITEMS = 50_000, 20_000  # rows of the tables that fields are looked up in


@dataclass(frozen=True)
class Case:
    """Sizes of a model.

    ``user`` and ``item`` are codes of each field; ``updates`` is the setting ``ranker.embedding_optimizer``.
    """

    name: str
    user: list[int]
    item: list[int]
    dim: int
    hidden: list[int]
    batch: int
    updates: str


# the fields of MovieLens-1M with RecBole's sizes; as many fields, codes and units as FuxiCTR takes for Criteo
CASES = [
    Case("movielens", [6_041, 7, 3, 22], [3_707, 19, 82], 16, [256, 256, 256], 2_048, "lazy_adam"),
    Case("criteo", [*[100] * 13, 400_000, 200_000, 50_000, 20_000, 5_000, 2_000, 500],
         [300_000, 100_000, 50_000, 20_000, 10_000, 5_000, 2_000, 1_000, 1_000, 500, 500, 200, 200, 100, 50, 50, 20,
          20, 10], 16, [400, 400, 400], 4_096, "lazy_adam"),
]  # fmt: skip


def side(sizes: list[int], rows: int, random: np.random.Generator) -> list[NDArray[np.int32]]:
    """Codes of unequal frequency, from 1: 0 is none."""
    return [(1 + random.random(rows) ** 2 * (size - 1)).astype(np.int32) for size in sizes]


def ours(case: Case, tables: FieldTables, number: Tensor) -> RankerTask:
    spec = DeepFMSpec(sizes=[*case.user, *case.item], lengths=tables.lengths, numbers=1, buckets=16, dim=case.dim,
                      hidden=case.hidden, dropout=0.0)  # fmt: skip
    values: dict[str, Any] = {"embedding_optimizer": case.updates, "embedding_decay": 0.0, "deep_decay": 0.0}
    settings = Ranker(dim=case.dim, hidden=case.hidden, dropout=0.0, batch_size=case.batch, **values)
    return RankerTask(spec, tables, [NUMBER], number.unsqueeze(1), None, settings, Alone())


def peer(case: Case) -> Any:
    """deepctr-torch's model, compiled with its Adam."""
    import requests

    requests.get = lambda url: SimpleNamespace(status_code=0)  # on import it asks the network for newer versions
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import DeepFM

    sizes = [*case.user, *case.item]
    columns = [SparseFeat(f"f{place}", size, case.dim) for place, size in enumerate(sizes)] + [DenseFeat(NUMBER, 1)]
    model = DeepFM(columns, columns, dnn_hidden_units=case.hidden, l2_reg_linear=0.0, l2_reg_embedding=0.0)
    model.compile("adam", "binary_crossentropy")
    return model.train()


def peer_step(model: Any, rows: Tensor, target: Tensor) -> None:
    """The body of the loop of its ``fit``."""
    predicted = model(rows).squeeze(-1)
    model.optim.zero_grad()
    loss = model.loss_func(predicted, target, reduction="sum") + model.get_regularization_loss() + model.aux_loss
    loss.backward()
    model.optim.step()


def compare(case: Case, steps: int, repeats: int) -> tuple[float, float]:
    """Samples a second, ours and the peer's."""
    random = np.random.default_rng(1)
    user, item = side(case.user, USERS, random), side(case.item, ITEMS, random)
    tables = FieldTables(SideTables(user), SideTables(item))
    batches: list[dict[str, Tensor]] = []
    rows: list[Tensor] = []
    for _ in range(steps):
        of_user, of_item = random.integers(USERS, size=case.batch), random.integers(ITEMS, size=case.batch)
        number, target = (torch.from_numpy(random.random(case.batch, np.float32)) for _ in range(2))
        batches.append({c.USER_INDEX: torch.from_numpy(of_user), c.ITEM_INDEX: torch.from_numpy(of_item),
                        c.TARGET: (target < 0.3).float(), NUMBER: number,
                        ROW_WEIGHT: torch.ones(case.batch)})  # fmt: skip
        columns = [*(table[of_user] for table in user), *(table[of_item] for table in item), number.numpy()]
        rows.append(torch.from_numpy(np.stack(columns, axis=1).astype(np.float32)))
    task, model = ours(case, tables, batches[0][NUMBER]), peer(case)
    work: dict[str, Callable[[], object]] = {
        "ours": lambda: [task.step(batch, 0.5) for batch in batches],
        "peer": lambda: [peer_step(model, x, batch[c.TARGET]) for x, batch in zip(rows, batches, strict=True)],
    }
    taken = side_by_side(work, repeats)
    return steps * case.batch / taken["ours"].wall, steps * case.batch / taken["peer"].wall


def run(scale: str) -> None:
    need("deepctr_torch", "deepctr-torch")
    torch.set_num_threads(THREADS)
    ratios: dict[str, float] = {}
    for case in CASES:
        mine, theirs = compare(case, *((4, 3) if scale == "small" else (20, 5)))
        ratios[case.name] = mine / theirs
        print(f"  {case.name:<10} {len(case.user + case.item)} fields, {sum(case.user + case.item):,} codes, "
              f"d = {case.dim}, MLP {case.hidden}, batches of {case.batch:,}: ours {mine:,.0f} samples/s, "
              f"deepctr-torch {theirs:,.0f} samples/s, ratio {ratios[case.name]:.2f}", flush=True)  # fmt: skip
    tell(
        {
            "deepfm_over_peer": round(min(ratios.values()), 2),
            **{f"deepfm_over_peer_{name}": round(value, 2) for name, value in ratios.items()},
        }
    )
