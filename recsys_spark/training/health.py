"""A step that is not finite on one rank stops all ranks before its update, without a message of its own.

A sum over ranks is not finite on any rank as soon as one rank's share is not: the gradients that travel anyway carry
the bad news. What is left to do is to let a bad loss spoil the gradients (``spread``), to look at the reduced ones
before they are used (``check``), and, once it has happened, to ask who it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from recsys_spark.errors import RecsysError
from recsys_spark.training.collective import Collective


class NotFinite(Exception):
    """A step's update would not be finite; raised on every rank at the same step.

    Parameters
    ----------
    mine : bool
        Whether this rank's own loss or gradients were not finite.
    loss : float
        This rank's.
    advice : str
        What a person may do.
    """

    def __init__(self, mine: bool, loss: float, advice: str = "lower the learning rate") -> None:
        self.mine, self.loss, self.advice = mine, loss, advice
        super().__init__("the update of this step is not finite")


class Health:
    """Watches the loss and the gradients of one rank's model.

    Parameters
    ----------
    parameters : iterable of Tensor
        Those whose gradients are looked at before any reduction.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.loss = torch.zeros(())
        self.own: list[Tensor] = []
        for parameter in parameters:
            if parameter.requires_grad:
                parameter.register_hook(self._note)

    def spread(self, loss: Tensor) -> Tensor:
        """The loss of this rank, whose gradients are all NaN where it is not finite; take its ``backward``."""
        self.loss, self.own = loss.detach(), []
        return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)

    def check(self, reduced: Iterable[Tensor]) -> None:
        """Look at gradients that are the same on every rank, sparse or dense, before the update.

        Gradients that stay on a rank go unseen here: a rank whose own are not finite must spoil one that travels
        (``is_well``).

        Raises
        ------
        NotFinite
            On all ranks, or on none.
        """
        if not _all_finite(list(reduced)):
            raise NotFinite(not self.is_well(), float(self.loss))

    def is_well(self) -> bool:
        """Whether this rank's own loss and gradients of the step are finite."""
        return bool(torch.stack([self.loss.float(), *self.own]).isfinite().all())

    def _note(self, gradient: Tensor) -> None:
        self.own.append(_values(gradient).detach().sum(dtype=torch.float32))


def error_of(bad: NotFinite, collective: Collective, moment: str) -> RecsysError:
    """The error that all ranks end with; every rank calls it, after ``NotFinite`` at the same step."""
    told = torch.zeros(collective.size, 2, dtype=torch.float64)
    told[collective.rank] = torch.tensor([bad.mine, not math.isfinite(bad.loss)])
    told = collective.sum(told)
    ranks = [f"rank {rank} ({'loss' if loss else 'gradient'})" for rank, (own, loss) in enumerate(told.tolist()) if own]
    return RecsysError(
        f"loss or gradient is not finite on {', '.join(ranks) or 'the sum over ranks'}",
        moment,
        f"No rank has made this update, the last checkpoint is kept; {bad.advice} and run again.",
    )


def _all_finite(gradients: list[Tensor]) -> bool:
    """One look at all of them: a sum is not finite if a term is not; only the converse needs a second look."""
    values = [_values(gradient) for gradient in gradients]
    if not values or bool(torch.stack([each.sum(dtype=torch.float32) for each in values]).isfinite().all()):
        return True
    return all(bool(each.isfinite().all()) for each in values)


def _values(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient
