"""A retrieval model of one cut as it is trained, whichever model it is and however it is fitted."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recsys_spark import columns as c
from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Retrieval
from recsys_spark.streaming.reader import ROW_WEIGHT
from recsys_spark.tables.storage import Storage
from recsys_spark.training.collective import Collective
from recsys_spark.training.task import Stream
from recsys_spark.training.tasks.ranking import Validation, ranking_sums
from recsys_spark.training.user_rows import ELSEWHERE, UserRows

COLUMNS = [c.USER_INDEX, c.ITEM_INDEX, c.TIME, c.WEIGHT]
_RANKED_AT_ONCE = 1 << 24  # scores: 64 MiB


class Snapshot(ABC):
    """See ``training.task.Task``. A model says how it scores, what it keeps, and how it goes on from an earlier cut.

    Parameters
    ----------
    events : int64 [items]
        Events of each item before the cut; items without any are neither negatives nor candidates.
    now : int
        The cut, in seconds.
    validation : Validation, optional
    settings : Retrieval
    collective : Collective
    """

    splits_users: ClassVar[bool] = False  # whether a rank may hold the rows of some users only
    model: nn.Module
    rows: UserRows  # of this rank

    def __init__(
        self,
        events: NDArray[np.int64],
        now: int,
        validation: Validation | None,
        settings: Retrieval,
        collective: Collective,
    ) -> None:
        self.metric = settings.stop_on.replace("_", f"{settings.validation_k}_")
        self.allowed = torch.from_numpy(events) > 0
        self.now, self.validation = now, validation
        self.settings, self.collective = settings, collective
        self.examples: Callable[[], Iterable[dict[str, Tensor]]] = tuple  # this rank's, for a model that looks back

    def batches(self, examples: Stream) -> Stream:
        """What the loop trains on, given this rank's examples: these, but for a task that reads them by itself."""
        return examples

    @abstractmethod
    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """See ``training.task.Task``, as of all that follows."""

    @abstractmethod
    def begin(self, epoch: int) -> None:
        """Seed what draws."""

    @abstractmethod
    def generators(self) -> dict[str, torch.Generator]:
        """Those that draw."""

    @abstractmethod
    def describe(self) -> str:
        """What travels between ranks, for a person."""

    @abstractmethod
    def start_from(self, earlier: Any) -> None:
        """Begin with an earlier cut's model of the same kind."""

    @abstractmethod
    def scorer(self) -> Callable[[Tensor], Tensor]:
        """Function from rows of users, int64 [U], to their scores with all items, float32 [U, items], as of now."""

    @abstractmethod
    def save(self, storage: Storage, folder: str, cut: str, scratch: str, holder: NDArray[np.int16]) -> None:
        """Write what is needed of the model after training; all ranks call it.

        Parameters
        ----------
        storage : Storage
        folder, scratch : str
            For the files, and for what ranks give each other; relative to the root.
        cut : str
            In the files' names.
        holder : int16 [users]
            Rank that holds each user.
        """

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Figures over the whole catalogue, of items new to the user; each rank ranks its own users, or its share."""
        if self.validation is None or len(self.validation.users) == 0:
            return {}
        self.model.eval()
        score, k = self.scorer(), self.settings.validation_k
        users = self.rows.place[torch.from_numpy(self.validation.users)].long()
        if self.rows.whole:
            mine = np.arange(self.collective.rank, len(users), self.collective.size)
        else:
            mine = np.flatnonzero(users.numpy() != ELSEWHERE)
        sums = torch.zeros(3, dtype=torch.float64)
        at_once = max(1, min(256, _RANKED_AT_ONCE // len(self.allowed)))
        for start in range(0, len(mine), at_once):
            rows = mine[start : start + at_once]
            scores = score(users[rows])
            scores[:, ~self.allowed] = -math.inf
            sums += ranking_sums(scores, rows, self.validation, k)
        sums = self.collective.sum(sums)
        ndcg, recall = (sums[:2] / sums[2].clamp_min(1)).tolist()
        return {f"ndcg{k}_new": ndcg, f"recall{k}_new": recall}

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Parameters that all ranks hold alike."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Optimizers."""

    @abstractmethod
    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights and state back."""


def pair_weights(batch: dict[str, Tensor], now: int, half_life_days: float) -> Tensor:
    """Weight of each row, float32 [B]: an old event weighs less, by half-life; padding nothing."""
    age = (now - batch[c.TIME]) / SECONDS_PER_DAY
    weight: Tensor = batch[ROW_WEIGHT] * batch[c.WEIGHT] * 0.5 ** (age.clamp_min(0) / half_life_days)
    return weight
