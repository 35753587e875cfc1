"""Updates of embedding tables: the gradients of all ranks are added up, then only the rows of a batch change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from recsys_spark.training.collective import Collective
from recsys_spark.training.health import Health
from recsys_spark.training.rows import Kind, RowOptimizer, coalesce, row_optimizer, state_of, take_state
from recsys_spark.training.traffic import Way


class TableUpdates:
    """Lazy Adam, row-wise Adagrad or plain gradient descent over embedding tables.

    Where a table's gradients are sparse, only touched rows change. Where they are dense, because every step touches all
    rows, all do.

    Parameters
    ----------
    tables : list of Embedding
        Weights [rows, D] each; ``sparse`` says of which kind the gradients are.
    collective : Collective
    names : list of str
        Of the tables, the same on every rank.
    kind : {"adam", "rowwise_adagrad", "sgd"}
    decay : float
        Decoupled weight decay of touched rows.
    ways : list of {"sparse", "dense"}, optional
        How the sparse gradients of each table travel; see ``traffic``. The sums are the same to rounding.
    mean : bool
        Average over ranks instead of adding up.
    own : collection of str
        Names of tables with rows that only this rank holds; their gradients, sparse ones, are not sent.
    """

    def __init__(
        self,
        tables: list[nn.Embedding],
        collective: Collective,
        names: list[str],
        kind: Kind = "adam",
        decay: float = 0.0,
        ways: Sequence[Way] | None = None,
        mean: bool = False,
        own: Collection[str] = (),
    ) -> None:
        self.tables, self.collective, self.names, self.own = tables, collective, names, own
        self.health = Health(table.weight for table in tables)
        self.ways: dict[str, Way] = dict(zip(names, ways, strict=True)) if ways else dict.fromkeys(names, "sparse")
        self.share = 1.0 / collective.size if mean else 1.0
        self.optimizers: list[RowOptimizer | Adam] = [
            row_optimizer(kind, table.weight, decay)
            if table.sparse or kind != "adam" or decay
            else Adam([table.weight], fused=True)
            for table in tables
        ]
        self._gathered: list[tuple[Tensor, Tensor] | None] = []

    def step(self, learning_rate: float, clip_norm: float | None = None) -> None:
        """Add the gradients of all ranks up, update the touched rows and clear the gradients.

        ``clip_norm`` bounds the length of the gradient of all tables together. The loss goes through ``health.spread``
        before.

        Raises
        ------
        NotFinite
            On every rank, before any update, where a rank's loss or gradient is not finite.
        """
        spoil = bool(self.own) and not self.health.is_well()  # what does not travel tells the others nothing
        self.gather(spoil)
        self.health.check(self.gathered())
        self.apply(learning_rate, 1.0 if clip_norm is None else clip_factor(self.squared_norm(), clip_norm))

    def gather(self, spoil: bool = False) -> None:
        """Take the gradients of all ranks, spoilt by NaN if asked for; those of the parameters are cleared."""
        gradients: dict[str, Tensor] = {}
        for name, table in zip(self.names, self.tables, strict=True):
            gradient, table.weight.grad = table.weight.grad, None
            if gradient is not None:
                gradients[name] = gradient * torch.nan if spoil else gradient
        packed = {name: each for name, each in gradients.items() if self._is_packed(name, each)}
        finish = self.collective.sum_sparse(packed) if packed else dict  # meanwhile the others are added up
        found = {name: self._sum(name, each) for name, each in gradients.items() if name not in packed}
        found |= {name: (each.indices()[0], each.values()) for name, each in finish().items()}
        if self.share != 1.0:
            found = {name: (rows, values * self.share) for name, (rows, values) in found.items()}
        self._gathered = [found.get(name) for name in self.names]

    def gathered(self) -> list[Tensor]:
        """Gradients of touched rows that were gathered."""
        return [found[1] for found in self._gathered if found is not None]

    def squared_norm(self) -> float:
        """Squared length of the gathered gradient, the same on every rank; not finite if any number of it is not."""
        squares = torch.zeros(2, dtype=torch.float64)  # of tables that all ranks hold, and of this rank's own
        for name, found in zip(self.names, self._gathered, strict=True):
            if found is not None:
                squares[int(name in self.own)] += torch.linalg.vector_norm(found[1], dtype=torch.float64) ** 2
        if self.own:
            squares[1:] = self.collective.sum(squares[1:], "norm")
        return float(squares.sum())

    def apply(self, learning_rate: float, factor: float = 1.0) -> None:
        """Update by what was gathered, times a factor."""
        for table, optimizer, found in zip(self.tables, self.optimizers, self._gathered, strict=True):
            if found is None:
                continue
            rows, values = found if factor == 1.0 else (found[0], found[1] * factor)
            if isinstance(optimizer, Adam):
                table.weight.grad = values.contiguous()  # Adam's one pass goes by the order in memory
                optimizer.param_groups[0]["lr"] = learning_rate
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            else:
                optimizer.step(rows, values, learning_rate)
        self._gathered = []

    def state_dict(self) -> dict[str, Any]:
        """State, for a checkpoint, by name of the table."""
        return {
            name: each.state_dict() if isinstance(each, Adam) else state_of(each)
            for name, each in zip(self.names, self.optimizers, strict=True)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back."""
        for name, optimizer in zip(self.names, self.optimizers, strict=True):
            if isinstance(optimizer, Adam):
                optimizer.load_state_dict(state[name])
            else:
                take_state(optimizer, state[name])

    def _is_packed(self, name: str, gradient: Tensor) -> bool:
        """Whether touched rows travel as such; in a world of one they would, if anything did."""
        sparse = self.ways[name] == "sparse" or self.collective.size == 1
        return gradient.is_sparse and name not in self.own and sparse

    def _sum(self, name: str, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Rows int64 [R], each once, and their gradients [R, D]: of all ranks, or of rows that only this one holds."""
        if not gradient.is_sparse:
            rows = torch.arange(len(gradient), device=gradient.device)
            return rows, self.collective.sum(gradient, name)
        mine = coalesce(gradient)
        if name in self.own:
            return mine.indices()[0], mine.values()
        whole = torch.zeros(len(gradient), gradient.shape[1] + 1, device=gradient.device)
        whole[mine.indices()[0], :-1] = mine.values()
        whole[mine.indices()[0], -1] = 1.0  # touched, if by a gradient of 0
        whole = self.collective.sum(whole, name)
        rows = torch.nonzero(whole[:, -1]).squeeze(1)
        return rows, whole[rows, :-1]


def clip_factor(squared_norm: float, clip_norm: float) -> float:
    """What a gradient is multiplied by, so that its length is ``clip_norm`` at most (Pascanu et al. 2013)."""
    return min(1.0, clip_norm / (squared_norm**0.5 + 1e-6))
