"""Items that all pairs of a batch are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys_spark.config import Retrieval


@dataclass(frozen=True)
class Drawn:
    """Items that a batch shares, K of them, each once.

    Parameters
    ----------
    items : int64 [K]
    expected : float32 [K]
        How often each was drawn, over how often it was to be expected.
    share : float32 [K]
        How often each was drawn, over all draws.
    place : int64 [B]
        Place of each pair's item among these; -1 where it is not one of them.
    """

    items: Tensor
    expected: Tensor
    share: Tensor
    place: Tensor


class Negatives:
    """Draws the items that a batch shares: all items, or a number by popularity and evenly, and the batch's own.

    A batch's pairs are themselves a draw by the items' number of pairs (Yi et al. 2019), so that popular items would be
    pushed down too far if nothing corrected for it; with others that are drawn evenly, rare items are seen as negatives
    too (Yang et al. 2020, mixed negative sampling).

    Parameters
    ----------
    events : int64 [items]
        Popularity; items with 0 are never drawn.
    settings : Retrieval
    pairs : int64 [items], optional
        Examples of each item, by which a batch holds it; ``events`` where they are not given.
    """

    def __init__(self, events: Tensor, settings: Retrieval, pairs: Tensor | None = None) -> None:
        self.random = torch.Generator()
        self.number, self.in_batch = settings.negatives, settings.in_batch
        draws = draw_weights(events, settings)
        self.cumulative = draws.cumsum(0)
        self.expected = (draws / draws.sum() * self.number).float()
        self.frequency = (events if pairs is None else pairs).double()
        self.frequency = (self.frequency / self.frequency.sum()).float()
        self.place_of = torch.full((len(events),), -1)
        self.allowed = events > 0
        self.all = torch.nonzero(self.allowed).squeeze(1)

    def draw(self, positives: Tensor) -> Drawn:
        """All items, or a sample with replacement; ``positives`` are those of the batch's pairs, int64 [B]."""
        if self.number == 0:
            items, ones = self.all, torch.ones(len(self.all))
            return Drawn(items, ones, ones / len(items), self._places(items, positives))
        points = torch.rand(self.number, generator=self.random, dtype=torch.float64) * self.cumulative[-1]
        found = torch.searchsorted(self.cumulative, points, right=True).clamp_max(len(self.cumulative) - 1)
        own = positives[self.allowed[positives]] if self.in_batch else positives[:0]  # not those of padding rows
        items, times = torch.unique(torch.cat([found, own]), return_counts=True)
        expected = self.expected[items]
        if self.in_batch:
            expected = expected + len(own) * self.frequency[items]
        share = times / (self.number + len(own))
        return Drawn(items, times / expected, share, self._places(items, positives))

    def one_of(self, drawn: Drawn, count: int) -> Tensor:
        """Random places among drawn items, each item as often as it was drawn, int64 [count]."""
        points = torch.rand(count, generator=self.random)
        places = torch.searchsorted(drawn.share.cumsum(0), points, right=True)
        return places.clamp_max(len(drawn.items) - 1)

    def _places(self, items: Tensor, positives: Tensor) -> Tensor:
        self.place_of[items] = torch.arange(len(items))
        places = self.place_of[positives]
        self.place_of[items] = -1
        return places


def draw_weights(events: Tensor, settings: Retrieval) -> Tensor:
    """What the probability of each item in a draw is in proportion to, float64 [items]."""
    allowed = (events > 0).double()
    if settings.negatives == 0:
        return allowed
    popular = torch.where(events > 0, events.double() ** settings.negative_power, 0.0)
    even = settings.uniform_share
    return popular * (1.0 - even) + allowed * (even * popular.sum() / allowed.sum().clamp_min(1.0))


def negative_shares(events: Tensor, settings: Retrieval, pairs: Tensor | None = None) -> Tensor:
    """Probability of each item as a negative, of a full batch's own items too, float64 [items]."""
    draws = draw_weights(events, settings)
    shares = draws / draws.sum().clamp_min(1e-12)
    if not settings.in_batch or settings.negatives == 0:
        return shares
    own = (events if pairs is None else pairs).double()
    both = settings.negatives * shares + settings.batch_size * own / own.sum().clamp_min(1e-12)
    return both / (settings.negatives + settings.batch_size)
