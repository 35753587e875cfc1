"""Good rows of one file: sessions of users who look at items, and go on to view, cart, buy and rate some.

S sessions, L looks (an item shown to a user in a session), R rows.
"""

from __future__ import annotations

import numpy as np

from recsys_spark.generator.hashing import Floats, Ints
from recsys_spark.generator.looks import REACHED, Looks, draw_looks, draw_slots
from recsys_spark.generator.names import DEVICES
from recsys_spark.generator.plan import FilePlan, day_start
from recsys_spark.generator.rows import DAY, ISO, MILLISECONDS, NO_VALUE, NUMBER, SECOND, Rows, in_form
from recsys_spark.generator.spec import SLOT_SECONDS, SLOTS
from recsys_spark.generator.world import EXPLORE, HOT, Shelf, World

IMPRESSION, VIEW, CART, PURCHASE, RATING = range(5)


def ordinary(world: World, file: FilePlan, rows: int, draw: np.random.Generator) -> Rows:
    """Rows of ordinary users.

    Parameters
    ----------
    world : World
    file : FilePlan
        Users whose number modulo ``file.parts`` is ``file.part`` belong to it.
    rows : int
        R.
    draw : Generator
    """
    first = 1 if world.spec.hot_user_share else 0  # the hot user is no ordinary one
    users = np.arange(file.part, world.users_on(file.cell_day), file.parts)
    users = users[users >= first]
    looks = draw_looks(world, users, rows, draw)
    liked = _liked(world, file.cell_day, looks, draw)
    shelf = world.shelf(file.cell_day)
    item = shelf.pick(liked, draw.random(len(liked)))
    hot = world.spec.hot_item_share / (1 - world.spec.hot_user_share)
    if hot:
        item[draw.random(len(item)) < hot] = HOT
    row_look = np.repeat(np.arange(len(looks.depth)), looks.depth)
    starts = np.cumsum(looks.depth) - looks.depth
    session = looks.session[row_look]
    slot = draw_slots(looks, draw)[session] + np.arange(rows)
    return finish(
        world, file, looks.user[session], item[row_look], np.arange(rows) - starts[row_look], slot, session, draw
    )


def hot_user(world: World, file: FilePlan, rows: int, session: int, draw: np.random.Generator) -> Rows:
    """Rows of the hot user: all slots of the day that belong to the file, again and again with other items."""
    number = np.arange(rows)
    mine = np.arange(file.part, SLOTS, file.parts)
    slot = mine[number % len(mine)]
    chance = draw.random(rows)
    kind = (chance[:, None] < REACHED).sum(axis=1)
    best, weight = world.likings(np.array([HOT]), file.cell_day)
    looks = Looks(number, np.ones(rows, np.int64), np.zeros(rows, np.int64))
    shelf = world.shelf(file.cell_day)
    item = shelf.pick(_clusters(world, best[looks.user], weight[looks.user], draw), draw.random(rows))
    _tell_apart(slot, item, kind, shelf, draw)
    user = np.full(rows, HOT)
    return finish(world, file, user, item, kind, slot, session + number // 20, draw)


def _tell_apart(slot: Ints, item: Ints, kind: Ints, shelf: Shelf, draw: np.random.Generator) -> None:
    """Draw items anew, in place, until no slot holds the same item and type twice."""
    for _ in range(200):
        key = (slot * 8 + kind) * (shelf.order.max() + 1) + item
        first = np.zeros(len(key), bool)
        first[np.unique(key, return_index=True)[1]] = True
        again = np.flatnonzero(~first)
        if not len(again):
            return
        item[again] = draw.choice(shelf.order, len(again))
        kind[again] = draw.integers(0, 5, len(again))
    raise ValueError(f"{len(slot):,} rows of the hot user in a file are too many for {len(shelf.order):,} items")


def _liked(world: World, day: int, looks: Looks, draw: np.random.Generator) -> Ints:
    """A cluster for each look, by the taste of its user."""
    users, place = np.unique(looks.user, return_inverse=True)
    best, weight = world.likings(users, day)
    mine = place[looks.session]
    return _clusters(world, best[mine], weight[mine], draw)


def _clusters(world: World, best: Ints, weight: Floats, draw: np.random.Generator) -> Ints:
    """One of the best clusters by weight, or sometimes any."""
    chance = draw.random(len(best))
    rank = (chance[:, None] > np.cumsum(weight[:, :-1], axis=1)).sum(axis=1)
    cluster = best[np.arange(len(best)), rank]
    explores = np.flatnonzero(draw.random(len(best)) < EXPLORE)
    cluster[explores] = draw.integers(0, world.clusters, len(explores))
    return cluster


def finish(
    world: World,
    file: FilePlan,
    user: Ints,
    item: Ints,
    kind: Ints,
    slot: Ints,
    session: Ints,
    draw: np.random.Generator,
) -> Rows:
    """Rows with times, values and devices."""
    count = len(user)
    form = draw.integers(ISO, MILLISECONDS + 1, count, np.int8) if world.spec.text else np.zeros(count, np.int8)
    start = day_start(world.spec, file.cell_day)
    time = in_form(start + slot * (SLOT_SECONDS * SECOND) + draw.integers(0, SECOND, count), form)
    quantity = draw.integers(1, 4, count)
    value = np.where(kind == PURCHASE, np.round(world.price[item] * quantity, 2), quantity.astype(float))
    stars = np.flatnonzero(kind == RATING)
    value[stars] = np.minimum(quantity[stars] + draw.integers(0, 4, len(stars)), 5)
    return Rows(
        key=np.arange(count),
        user=user,
        item=item,
        kind=kind.astype(np.int8),
        time=time,
        value=value,
        value_form=np.where(kind >= CART, NUMBER, NO_VALUE).astype(np.int8),
        session=session.astype(np.int64),
        device=((session + file.number) % len(DEVICES)).astype(np.int8),
        form=form,
        day=np.full(count, file.cell_day, np.int32),
        rule=np.zeros(count, np.int8),
        arrival=time - start + file.cell_day * DAY,
    )
