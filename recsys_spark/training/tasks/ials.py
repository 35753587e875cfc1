"""Matrix factorization by implicit alternating least squares; see ``models.als`` for the mathematics.

A rank reads the pairs of its own users once and keeps them twice, by user and by item: 16 bytes a pair beside the
vectors, 24 while they are read. It solves for its users alone. For items the ranks' sums over their users are added
up: the Gram matrix of all users once a sweep, and for each step of conjugate gradients (and once before) a row of D + 1
numbers an item. No row of a user, and nothing whose size grows with the users, goes from rank to rank.

On one rank a row goes through all its steps at once; on several all items of a block go side by side, step by step.
Both are the same sums in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.models import als
from recsys_spark.models.als import Floats, Pairs
from recsys_spark.models.mf import MatrixFactorization
from recsys_spark.tables.storage import Storage
from recsys_spark.training import by_row
from recsys_spark.training.collective import Collective
from recsys_spark.training.health import NotFinite
from recsys_spark.training.task import Stream
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.tasks.snapshot import Snapshot, pair_weights
from recsys_spark.training.user_rows import UserRows, first_rows
from recsys_spark.training.vectors import save_vectors

_USERS = "user.weight"
_PAIRS_OF_A_STEP = 1 << 23  # of a rank; a step can be shown, and a checkpoint follow it
_NUMBERS_OF_A_STEP = 1 << 22  # of the message with an item block's sums: 16 MiB
_ADVICE = "look at the events' weights, or raise retrieval.ials.regularization,"


@dataclass(frozen=True, eq=False)
class _Half:
    """What one half of a sweep solves with.

    Parameters
    ----------
    pairs : Pairs
        Of this rank, by the rows that are solved for.
    ridge : float32 [R]
        λ of each row.
    busy : bool [R]
        Rows that have pairs, on whatever rank.
    cuts : list of int
        Bounds of the rows of each step.
    """

    pairs: Pairs
    ridge: Floats
    busy: NDArray[np.bool_]
    cuts: list[int]


class IALSTask(Snapshot):
    """See ``Snapshot``. A step is a block of users, or of items, that is solved for.

    Parameters
    ----------
    users, items : int
        Rows of the tables.
    events, now, validation, settings, collective
        As in ``Snapshot``.
    prior, pairs
        Not looked at: there are no biases and no draws.
    rows : UserRows, optional
        Users whose rows this rank holds; without it all, on the only rank.
    """

    splits_users = True
    model: MatrixFactorization

    def __init__(
        self,
        users: int,
        items: int,
        events: NDArray[np.int64],
        prior: Tensor,
        now: int,
        validation: Validation | None,
        settings: Retrieval,
        collective: Collective,
        pairs: NDArray[np.int64] | None = None,
        rows: UserRows | None = None,
    ) -> None:
        super().__init__(events, now, validation, settings, collective)
        self.rows = UserRows.of(np.zeros(users, np.uint16)) if rows is None else rows
        self.model = MatrixFactorization(len(self.rows), items, settings.dim)
        self.model.requires_grad_(False)
        std = settings.ials.init_std / math.sqrt(settings.dim)
        self.rows.fill(self.model.user.weight, settings.seed, std)
        self.model.item.weight.copy_(first_rows("item", 0, items, settings.dim, settings.seed, std))
        self.model.item.weight[~self.allowed] = 0.0
        self._halves: list[_Half] = []  # of users, of items
        self._inner: tuple[int, Floats] = (-1, np.zeros((0, 0), np.float32))  # half it is for; α times a Gram matrix

    def batches(self, examples: Stream) -> Stream:
        """Read the examples of this rank's users; a batch is a block of rows then."""
        users, items = self._read(examples)
        of_item = self.collective.sum(torch.from_numpy(_mass(items)), "weights of items").numpy()
        of_user, settings = _mass(users), self.settings.ials
        counts = torch.tensor([len(users.indices), int((of_user > 0).sum())], dtype=torch.float64)
        total, with_pairs = (int(each) for each in self.collective.sum(counts).tolist())
        how = (settings.unobserved_weight, settings.regularization, settings.frequency_power)
        parts = -(-total // (_PAIRS_OF_A_STEP * self.collective.size))
        wide = -(-len(of_item) * (self.settings.dim + 1) // _NUMBERS_OF_A_STEP) if total else 0
        even = np.linspace(0, len(of_item), max(parts, wide) + 1).astype(int).tolist()  # alike on all ranks
        self._halves = [
            _Half(users, als.penalties(of_user, int((of_item > 0).sum()), *how), of_user != 0, users.cuts(parts)),
            _Half(items, als.penalties(of_item, with_pairs, *how), of_item != 0, even),
        ]
        return _Blocks(examples, parts, len(even) - 1 if total else 0, total, self.collective.size)

    def _read(self, examples: Stream) -> tuple[Pairs, Pairs]:
        """Pairs of this rank by user and by item; one that comes more than once has the sum of its weights."""
        from scipy.sparse import coo_matrix

        size, read = len(examples) * examples.batch_size, 0
        user, item, weight = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32)
        for batch in self.examples():
            weights = pair_weights(batch, self.now, self.settings.half_life_days)
            kept = torch.nonzero(weights).squeeze(1)  # not a number is kept, and ends the training
            to = slice(read, read + len(kept))
            user[to] = self.rows.of_users(batch[c.USER_INDEX][kept].long())
            item[to], weight[to] = batch[c.ITEM_INDEX][kept], weights[kept]
            read += len(kept)
        shape = (len(self.rows), len(self.allowed))
        by_user = coo_matrix((weight[:read], (user[:read], item[:read])), shape).tocsr()
        del user, item, weight
        return _pairs(by_user), _pairs(by_user.tocsc())

    def begin(self, epoch: int) -> None:
        """Nothing is drawn; Gram matrices are taken anew."""
        self._inner = (-1, self._inner[1])

    def generators(self) -> dict[str, torch.Generator]:
        """None."""
        return {}

    def describe(self) -> str:
        """What the items' sums take."""
        numbers, ranks = self.settings.dim**2, self.collective.size
        numbers += len(self.allowed) * (self.settings.dim + 1) * (self.settings.ials.cg_steps + 1)
        return f"sent by a rank a sweep: {2 * 4 * numbers * (ranks - 1) / ranks / 1e6:,.3g} MB of sums, no user's row"

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """Solve for a block of users or of items; returns its loss, regularization of its rows included.

        Raises
        ------
        NotFinite
            On every rank; the block has been written, but no checkpoint follows.
        """
        side, block = int(batch["side"]), int(batch["block"])
        half = self._halves[side]
        first, last = half.cuts[block], half.cuts[block + 1]
        losses, table = self._solve(side, half, first, last), self._tables()[side]
        loss = float(losses.sum()) if np.isfinite(table[first:last]).all() else math.nan
        of_all = loss if side == 1 else float(self.collective.sum(torch.tensor([loss], dtype=torch.float64)))
        if not math.isfinite(of_all):  # of items, whose sums are everybody's, a bad weight tells whose they were
            ill = not math.isfinite(loss) if side == 0 else not np.isfinite(half.pairs.weights).all()
            raise NotFinite(bool(ill), loss, _ADVICE)
        at = half.pairs.indptr
        weight = float(half.pairs.weights[at[first] : at[last]].sum(dtype=np.float64))
        return (loss / self.collective.size if side == 1 else loss), weight

    def _tables(self) -> tuple[Floats, Floats]:
        """Vectors of users and of items (not copies)."""
        return self.model.user.weight.numpy(), self.model.item.weight.numpy()

    def _solve(self, side: int, half: _Half, first: int, last: int) -> NDArray[np.float64]:
        """Loss of each row of a block; items' are those of all ranks, on every rank."""
        table, fixed = self._tables()[side], self._tables()[1 - side]
        steps = self.settings.ials.cg_steps
        inner, threads = self._gram(side, fixed), torch.get_num_threads()
        if side == 0 or self.collective.size == 1:
            return als.solve(als.System(half.pairs, fixed, inner, half.ridge), table, first, last, steps, threads)

        def of_all_ranks(points: Floats, target: float) -> Floats:
            mine = als.products(half.pairs, fixed, points, target, first, last, threads)
            return self.collective.sum(torch.from_numpy(mine), "sums of items").numpy()

        block = slice(first, last)
        return als.conjugate_gradients(of_all_ranks, inner, half.ridge[block], table[block], half.busy[block], steps)

    def _gram(self, side: int, fixed: Floats) -> Floats:
        """α times the Gram matrix of the table that stays, float32 [D, D], of all its rows; once a half."""
        if self._inner[0] != side:
            found = torch.from_numpy(als.gram(fixed))
            if side == 1:  # of users, who are dealt out
                found = self.collective.sum(found, "gram")
            self._inner = (side, (self.settings.ials.unobserved_weight * found.numpy()).astype(np.float32))
        return self._inner[1]

    def start_from(self, earlier: IALSTask) -> None:
        """Begin with an earlier cut's vectors."""
        self.model.load_state_dict(earlier.model.state_dict())

    def scorer(self) -> Callable[[Tensor], Tensor]:
        """By the vectors of now."""
        items = self.model.item.weight.T
        return lambda rows: self.model.user(rows) @ items

    def save(self, storage: Storage, folder: str, cut: str, scratch: str, holder: NDArray[np.int16]) -> None:
        """Write ``user_vectors.<cut>.npy`` and ``item_vectors.<cut>.npy``, with a last place of 1 and 0: no bias."""
        vectors, where = (self.model.user_vectors, self.model.item_vectors()), (folder, cut, scratch)
        save_vectors(storage, *where, *vectors, self.rows, holder, self.collective)

    def weights(self) -> dict[str, Tensor]:
        """The items' vectors; the users' are in the parts."""
        return {name: tensor for name, tensor in self.model.state_dict().items() if name != _USERS}

    def state(self) -> dict[str, Any]:
        """Nothing else: a sweep begins with the vectors alone."""
        return {}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take vectors back; the users' come with the parts."""
        self.model.load_state_dict({**weights, _USERS: self.model.user.weight})

    def parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Users' rows, a part a bucket."""
        yield from by_row.parts(self.rows.slices, {"weight": self.model.user.weight})

    def load_parts(self, read: Callable[[str], dict[str, Any]]) -> None:
        """Take the rows of the buckets back that this rank holds now."""
        by_row.take_parts(self.rows.slices, {"weight": self.model.user.weight}, read)


class _Blocks:
    """Blocks of users, then of items; as many on every rank. A ``training.task.Stream``.

    Parameters
    ----------
    examples : Stream
        What was read; it says what a run can be resumed on.
    users, items : int
        Blocks of each.
    pairs, ranks : int
        Pairs of all ranks: a sweep sees each once.
    """

    def __init__(self, examples: Stream, users: int, items: int, pairs: int, ranks: int) -> None:
        self.examples, self.counts = examples, (users, items)
        self.batch_size = -(-pairs // max(1, len(self) * ranks))

    def __len__(self) -> int:
        return sum(self.counts)

    def epoch(self, epoch: int, shuffle: bool = True, skip: int = 0) -> Generator[dict[str, Tensor], None, None]:
        """Sides and numbers of the blocks."""
        for side, count in enumerate(self.counts):
            for block in range(count):
                if side * self.counts[0] + block >= skip:
                    yield {"side": torch.tensor(side), "block": torch.tensor(block)}

    def describe(self) -> dict[str, Any]:
        """The examples; their order does not matter, and blocks follow from the ranks."""
        return {**self.examples.describe(), "steps": len(self)}


def _mass(pairs: Pairs) -> NDArray[np.float64]:
    """Weight of each row's pairs together, float64 [R]."""
    total = np.append(0.0, np.cumsum(pairs.weights, dtype=np.float64))
    mass: NDArray[np.float64] = total[pairs.indptr[1:]] - total[pairs.indptr[:-1]]
    return mass


def _pairs(matrix: Any) -> Pairs:
    """Out of SciPy's CSR, or CSC to have its columns as rows."""
    indices, weights = matrix.indices.astype(np.int32, copy=False), matrix.data.astype(np.float32, copy=False)
    return Pairs(matrix.indptr.astype(np.int64), indices, weights)
