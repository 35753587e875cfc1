"""Names of users, items and categories: plain ones, hostile ones that are valid, and ids that no rule lets pass."""

from __future__ import annotations

import numpy as np

from recsys_spark.generator.hashing import Ints, uniform

DEPARTMENTS = ("food", "garden", "toys", "books")
AISLES = ("classic", "new wave")
SHELVES = ("basics", "gifts", "bundles", "rarities")
CLUSTERS = len(DEPARTMENTS) * len(AISLES) * len(SHELVES)
BRANDS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gum", "Hazel", "Ivy", "Juniper", "Koa", "Larch")
COUNTRIES = ("DE", "FR", "PL", "ES", "IT", "NL")
TAGS = ("bio", "sale", "local", "xl", "vegan", "fragile", "season", "set")
WORDS = ("amber", "brisk", "coral", "dusky", "early", "fresh", "green", "heavy", "inner", "jolly", "keen", "light")
THINGS = ("basket", "lamp", "kettle", "puzzle", "novel", "spade", "teapot", "blanket", "drum", "ladder", "mirror")
DEVICES = ("web", "ios", "android", "tv")

EVENT_TYPES = ("impression", "view", "cart", "purchase", "rating")
UNKNOWN_TYPES = ("click", "share", "wishlist")

# Each of these is a good id, and each has broken some program: as a path, a partition, a quoted string, a URL, a byte.
HOSTILE = ("../{}", "{}=b", "a='{}'", '"{}"', "%2e%2e%2f{}", "\U0001f6d2{}", "{}/../x", "ünï{}", "{},;\\n", "$\\{{{}}}")
# None of these is an id.
BROKEN_IDS = ("", "   ", "x" * 257, "y" * 1_000, "u\x01x", "a\tb", "e\x1b[31m", "d\x7fd")


def names(letter: str, numbers: Ints, seed: int, hostile_share: float) -> list[str]:
    """Ids of users (letter u) or items (letter i) by number; a share of them is hostile, for good."""
    plain = [f"{letter}{number:07d}" for number in numbers.tolist()]
    if hostile_share:
        chance = uniform(seed, f"odd {letter}", numbers)
        for place in np.flatnonzero(chance < hostile_share).tolist():
            form = HOSTILE[int(numbers[place]) % len(HOSTILE)]
            plain[place] = form.format(plain[place])
    return plain


def category(cluster: int) -> str:
    """Path of a cluster in the tree of categories, 'a > b > c'."""
    department = DEPARTMENTS[cluster % len(DEPARTMENTS)]
    aisle = AISLES[cluster // len(DEPARTMENTS) % len(AISLES)]
    return f"{department} > {aisle} > {SHELVES[cluster // len(DEPARTMENTS) // len(AISLES)]}"
