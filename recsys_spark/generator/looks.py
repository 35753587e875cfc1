"""Who has sessions on a day, how many looks and rows each has, and when.

S sessions, L looks (an item shown to a user in a session), R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys_spark.generator.hashing import Ints
from recsys_spark.generator.spec import SLOTS
from recsys_spark.generator.world import World

LOOKS = 10  # of a session, at most
STOP = 0.2  # chance that a look is the session's last
FUNNEL = (0.45, 0.25, 0.5, 0.4)  # chance to go on: impression → view → cart → purchase → rating
REACHED = np.cumprod(FUNNEL)


@dataclass(frozen=True)
class Looks:
    """Looks of sessions.

    ``session`` (L) is the session of a look, ``depth`` (L) its number of rows, ``user`` (S) the user of a session.
    """

    session: Ints
    depth: Ints
    user: Ints


def draw_looks(world: World, users: Ints, rows: int, draw: np.random.Generator) -> Looks:
    """Sessions with R rows altogether, none of a user with more than an ordinary person's."""
    per_session = (1 - (1 - STOP) ** LOOKS) / STOP * (1 + REACHED.sum())
    sessions = int(rows / per_session * 1.05) + 80
    number = np.minimum(draw.geometric(STOP, sessions), LOOKS)
    session = np.repeat(np.arange(sessions), number)
    chance = draw.random(len(session))
    depth = np.ones(len(session), np.int64)
    for reached in REACHED:
        depth += chance < reached
    total = np.cumsum(depth)
    last = int(np.searchsorted(total, rows))
    session, depth = session[: last + 1], depth[: last + 1]
    depth[-1] -= total[last] - rows
    size = np.bincount(session, depth).astype(np.int64)
    chosen = np.cumsum(world.activity(users))
    place = np.searchsorted(chosen, draw.random(len(size)) * chosen[-1], side="right")
    place = _not_too_many(np.minimum(place, len(users) - 1), size, len(users), world.spec.ordinary_most, draw)
    return Looks(session, depth, users[place])


def _not_too_many(user: Ints, size: Ints, users: int, most: int, draw: np.random.Generator) -> Ints:
    """Give sessions of users who have more rows than ``most`` to others."""
    while True:
        order = np.argsort(user, kind="stable")
        over = order[np.cumsum(size[order]) - _before(user[order], size[order]) > most]
        if not len(over):
            return user
        user[over] = draw.integers(0, users, len(over))


def _before(group: Ints, size: Ints) -> Ints:
    """For sorted groups: the sum of sizes before the group."""
    total = np.cumsum(size)
    starts = np.searchsorted(group, group, side="left")
    return total[starts] - size[starts]


def draw_slots(looks: Looks, draw: np.random.Generator) -> Ints:
    """Slots of sessions: those of a user lie one after the other, at random times.

    Returns
    -------
    array S
        Slot of the session's first row, less that row's number; add a row's number for its own slot.
    """
    size = np.bincount(looks.session, looks.depth).astype(np.int64)
    chance = draw.random(len(size))
    order = np.argsort(looks.user + chance)
    user = looks.user[order]
    before = np.cumsum(size[order]) - size[order] - _before(user, size[order])
    rows_of_user = np.bincount(user, size[order])[user].astype(np.int64)
    slot = np.empty(len(size), np.int64)
    slot[order] = (chance[order] * (SLOTS - rows_of_user)).astype(np.int64) + before
    return slot - (np.cumsum(size) - size)
