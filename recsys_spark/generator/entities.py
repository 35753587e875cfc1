"""Items and users with their attributes and gaps, and the truth about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys_spark.generator.hashing import Ints, uniform
from recsys_spark.generator.names import BRANDS, CLUSTERS, COUNTRIES, DEPARTMENTS, TAGS, THINGS, WORDS, category
from recsys_spark.generator.spec import LogSpec
from recsys_spark.generator.world import World

FILE_ROWS = 250_000


@dataclass(frozen=True)
class CataloguePlan:
    """Part of a catalogue.

    Parameters
    ----------
    side : str
        items or users.
    part : int
    first, last : int
        Numbers of the items or users, last exclusive.
    """

    side: str
    part: int
    first: int
    last: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"part-{self.part:05d}.parquet"


def plan_catalogue(spec: LogSpec) -> list[CataloguePlan]:
    """All files of items and users."""
    return [
        CataloguePlan(side, part, first, min(first + FILE_ROWS, total))
        for side, total in (("items", spec.items), ("users", spec.users))
        for part, first in enumerate(range(0, total, FILE_ROWS))
    ]


def attributes(world: World, plan: CataloguePlan) -> pa.Table:
    """Input table: what the shop knows, with gaps."""
    numbers = np.arange(plan.first, plan.last)
    return _items(world, numbers) if plan.side == "items" else _users(world, numbers)


def truth(world: World, plan: CataloguePlan) -> pa.Table:
    """What nobody knows: number, cluster, popularity; and the day of joining, counted from the first."""
    numbers = np.arange(plan.first, plan.last)
    if plan.side == "users":
        born = world.first_day(numbers, world.spec.users)
        return pa.table({"user_id": world.user_names(numbers), "number": numbers, "first_day": born})
    return pa.table(
        {
            "item_id": world.item_names(numbers),
            "number": numbers,
            "first_day": world.first_day(numbers, world.spec.items),
            "cluster": numbers % world.clusters,
            "popularity": world.popularity[numbers],
        }
    )


def _items(world: World, numbers: Ints) -> pa.Table:
    seed = world.spec.seed
    brand = _pick(BRANDS, seed, "brand", numbers)
    tags = [_tags(bits) for bits in (uniform(seed, "tags", numbers) * 2 ** len(TAGS)).astype(int).tolist()]
    return pa.table(
        {
            "item_id": world.item_names(numbers),
            "title": [f"{WORDS[n % len(WORDS)]} {THINGS[n // 7 % len(THINGS)]} {n}" for n in numbers.tolist()],
            "category": pa.array(
                [category(cluster) for cluster in range(CLUSTERS)],
            ).take(pa.array(numbers % world.clusters, mask=_gaps(seed, "nocat", numbers, 0.03))),
            "brand": pa.array(BRANDS).take(pa.array(brand, mask=_gaps(seed, "nobrand", numbers, 0.1))),
            "price": pa.array(world.price[numbers], mask=_gaps(seed, "noprice", numbers, 0.08)),
            "tags": pa.array(tags, pa.string()),
        }
    )


def _users(world: World, numbers: Ints) -> pa.Table:
    """Users; the segment is the department liked best on the first day, but for some."""
    seed = world.spec.seed
    best, weight = world.likings(numbers, 0)
    segment = best[np.arange(len(numbers)), weight.argmax(axis=1)] % len(DEPARTMENTS)
    other = uniform(seed, "other", numbers) < 0.15
    segment[other] = _pick(DEPARTMENTS, seed, "segment", numbers)[other]
    age = 18 + (60 * uniform(seed, "age", numbers)).astype(np.int32)
    country = _pick(COUNTRIES, seed, "country", numbers)
    return pa.table(
        {
            "user_id": world.user_names(numbers),
            "segment": pa.array(DEPARTMENTS).take(pa.array(segment, mask=_gaps(seed, "noseg", numbers, 0.1))),
            "age": pa.array(age, pa.int32(), mask=_gaps(seed, "noage", numbers, 0.15)),
            "country": pa.array(COUNTRIES).take(pa.array(country, mask=_gaps(seed, "nocount", numbers, 0.05))),
        }
    )


def _pick(values: tuple[str, ...], seed: int, stream: str, numbers: Ints) -> Ints:
    return (uniform(seed, stream, numbers) * len(values)).astype(np.int64)


def _gaps(seed: int, stream: str, numbers: Ints, share: float) -> np.ndarray:
    return uniform(seed, stream, numbers) < share


def _tags(bits: int) -> str | None:
    """Up to eight tags, 'a|b|c'; none is null."""
    bits &= bits >> 2 | bits << 1  # fewer: an item with all of them is no news
    return "|".join(tag for place, tag in enumerate(TAGS) if bits >> place & 1) or None
