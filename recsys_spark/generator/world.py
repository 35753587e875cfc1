"""Who likes what: latent tastes of users, popularity of items, and who is there on which day.

U users, C clusters of items, B = 4 clusters that a user likes best, D = 8 latent dimensions.
Everything is a function of the spec; nothing is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from recsys_spark.generator.hashing import Floats, Ints, uniform
from recsys_spark.generator.names import CLUSTERS, names
from recsys_spark.generator.spec import INITIAL_SHARE, LogSpec

DIM = 8
BEST = 4
TEMPERATURE = 1.0
EXPLORE = 0.1  # share of looks at a cluster drawn at random
DRIFT_DAYS = 120.0  # after a quarter of it a user's taste is another one
FASHION_DAYS = 60.0  # an item is in fashion again
HOT = 0  # number of the hot user and of the hot item


@dataclass(frozen=True)
class Shelf:
    """Items of a day, cluster by cluster, with cumulated popularity.

    ``order`` holds item numbers; those of cluster c lie at first[c]:first[c + 1], and ``total`` is cumulated over all.
    """

    order: Ints
    total: Floats
    first: Ints

    def pick(self, cluster: Ints, chance: Floats) -> Ints:
        """Item numbers drawn by popularity inside each cluster."""
        bounds = np.concatenate([[0.0], self.total])[self.first]
        target = bounds[cluster] + chance * (bounds[cluster + 1] - bounds[cluster])
        place = np.searchsorted(self.total, target, side="right")
        return self.order[np.clip(place, self.first[cluster], self.first[cluster + 1] - 1)]


class World:
    """Users, items and tastes of a spec.

    Parameters
    ----------
    spec : LogSpec
    """

    def __init__(self, spec: LogSpec) -> None:
        self.spec = spec
        self.clusters = min(CLUSTERS, max(spec.items // 20, 1))

    def first_day(self, numbers: Ints, total: int) -> Ints:
        """Day on which users or items join; they are numbered in this order."""
        initial = _initial(total, self.spec.days)
        later = 1 + (numbers - initial) * (self.spec.days - 1) // max(total - initial, 1)
        return np.where(numbers < initial, 0, later)

    def there(self, day: int, total: int) -> int:
        """How many users or items of all have joined by the end of a day."""
        initial = _initial(total, self.spec.days)
        if self.spec.days == 1:
            return total
        return min(total, initial - (-day * (total - initial) // (self.spec.days - 1)))

    def users_on(self, day: int) -> int:
        """Number of users on a day."""
        return self.there(day, self.spec.users)

    def items_on(self, day: int) -> int:
        """Number of items on a day."""
        return self.there(day, self.spec.items)

    def user_names(self, numbers: Ints) -> list[str]:
        """Ids of users."""
        return names("u", numbers, self.spec.seed, self.spec.rate("hostile_id"))

    def item_names(self, numbers: Ints) -> list[str]:
        """Ids of items."""
        return names("i", numbers, self.spec.seed, self.spec.rate("hostile_id"))

    def activity(self, users: Ints) -> Floats:
        """How active users are: 1/3 to 3."""
        return np.exp(np.log(3.0) * (2 * uniform(self.spec.seed, "active", users) - 1))

    def _latent(self, stream: str, numbers: Ints) -> Floats:
        places = numbers[:, None] * DIM + np.arange(DIM)
        return (2 * uniform(self.spec.seed, stream, places) - 1) * np.sqrt(3.0)

    def likings(self, users: Ints, day: int) -> tuple[Ints, Floats]:
        """Clusters that users like best on a day, and the probability of each: two arrays U × B."""
        angle = 2 * np.pi * day / DRIFT_DAYS
        taste = np.cos(angle) * self._latent("taste", users) + np.sin(angle) * self._latent("drift", users)
        vectors = self._latent("cluster", np.arange(self.clusters))
        liking = np.zeros((len(users), self.clusters))
        for one, other in zip(taste.T, vectors.T, strict=True):  # no BLAS: the same bits with any number of threads
            liking += one[:, None] * other
        best = np.argpartition(-liking, min(BEST, self.clusters) - 1, axis=1)[:, :BEST]
        top = np.take_along_axis(liking, best, axis=1) / TEMPERATURE
        weight = np.exp(top - top.max(axis=1, keepdims=True))
        return best, weight / weight.sum(axis=1, keepdims=True)

    @cached_property
    def popularity(self) -> Floats:
        """Weight of each item: 1 / rank inside its cluster (Zipf); the ranks have nothing to do with age."""
        items = np.arange(self.spec.items)
        cluster = items % self.clusters
        order = np.lexsort((uniform(self.spec.seed, "rank", items), cluster))
        starts = np.searchsorted(cluster[order], np.arange(self.clusters))
        rank = np.empty(self.spec.items)
        rank[order] = items - starts[cluster[order]] + 1
        return 1.0 / rank

    def popularity_on(self, day: int) -> Floats:
        """Weight of each item on a day: what it is, times its fashion."""
        if not self.spec.fashion:
            return self.popularity
        phase = uniform(self.spec.seed, "fashion", np.arange(self.spec.items))
        weight: Floats = self.popularity * np.exp(self.spec.fashion * np.sin(2 * np.pi * (day / FASHION_DAYS + phase)))
        return weight

    @cached_property
    def price(self) -> Floats:
        """Price of each item, in cents' steps."""
        return np.round(np.exp(1 + 3 * uniform(self.spec.seed, "price", np.arange(self.spec.items))), 2)

    def shelf(self, day: int) -> Shelf:
        """The items of a day."""
        items = np.arange(self.items_on(day))
        order = np.argsort(items % self.clusters, kind="stable")
        first = np.searchsorted((items % self.clusters)[order], np.arange(self.clusters + 1))
        return Shelf(order, np.cumsum(self.popularity_on(day)[order]), first)

    def probabilities(self, users: Ints, day: int) -> Floats:
        """Probability that an event of a user on a day is about an item: U × items, in the order of item numbers."""
        best, weight = self.likings(users, day)
        by_cluster = np.full((len(users), self.clusters), EXPLORE / self.clusters)
        np.put_along_axis(by_cluster, best, np.take_along_axis(by_cluster, best, 1) + (1 - EXPLORE) * weight, 1)
        items = np.arange(self.items_on(day))
        cluster, share = items % self.clusters, self.popularity_on(day)[: len(items)].copy()
        share /= np.bincount(cluster, share, self.clusters)[cluster]
        result = np.zeros((len(users), self.spec.items))
        result[:, : len(items)] = by_cluster[:, cluster] * share
        hot = self.spec.hot_item_share / (1 - self.spec.hot_user_share)
        if hot:  # the hot item's rows are those of ordinary users
            ordinary = users != HOT if self.spec.hot_user_share else np.ones(len(users), bool)
            result[ordinary] *= 1 - hot
            result[ordinary, HOT] += hot
        return result


@lru_cache(maxsize=1)
def world_of(spec: LogSpec) -> World:
    """The world of a spec, kept in a worker from file to file."""
    return World(spec)


def _initial(total: int, days: int) -> int:
    return total if days == 1 else max(1, round(INITIAL_SHARE * total))
