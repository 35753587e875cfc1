"""One file's rows with all faults, each labelled with what cleaning must say of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from recsys_spark.generator.faults import FAULTS, shift
from recsys_spark.generator.hashing import Ints
from recsys_spark.generator.plan import REDELIVERED, FilePlan
from recsys_spark.generator.rows import BOT, CODE, NO_DAY, NO_VALUE, NUMBER, SECOND, SECONDS, Rows, in_form, joined
from recsys_spark.generator.sessions import RATING, VIEW, finish, hot_user, ordinary
from recsys_spark.generator.spec import LOOK_BACK_DAYS, SLOTS
from recsys_spark.generator.world import HOT, World
from recsys_spark.rules import DUPLICATES, KEPT

EXTRA = tuple(DUPLICATES)  # rows that are added; all others are changed in place
CORRECTED = 0.05  # share of the rows with a value that a redelivered file corrects, where such faults are wanted


def file_rows(world: World, file: FilePlan) -> Rows:
    """Rows of a file, in file order.

    Parameters
    ----------
    world : World
    file : FilePlan
    """
    spec, draw = world.spec, np.random.default_rng([world.spec.seed, file.number])
    counts = {name: _whole(share * file.rows, draw) for name, share in spec.rates}
    floor = spec.activity_floor
    bots = [int(size) for size in draw.integers(3 * floor // 2, 2 * floor, file.bots)]
    added = sum(counts.get(name, 0) for name in EXTRA) + counts.get("malformed", 0) + sum(bots)
    own = max(file.rows - added, 1)
    hot_rows = round(own * spec.hot_user_share)
    good = [ordinary(world, file, own - hot_rows, draw)]
    if hot_rows:
        good.append(hot_user(world, file, hot_rows, int(good[0].session.max()) + 1, draw))
    rows = joined(good) if hot_rows else good[0]
    parts = [rows, *_plant(world, file, rows, counts, draw)]
    for number, size in enumerate(bots):
        parts.append(_bot(world, file, number, size, int(rows.session.max()) + 1 + number, draw))
    rows = joined(parts) if len(parts) > 1 else rows
    _number(rows, own)
    rows = rows.take(np.argsort(rows.arrival, kind="stable"))
    return _again(rows, file, spec.rate("redelivered")) if file.kind == REDELIVERED else rows


def _whole(expected: float, draw: np.random.Generator) -> int:
    """A whole number that is right on average, so that small files have their share too."""
    return int(expected + draw.random())


def _number(rows: Rows, own: int) -> None:
    """Event numbers of the rows behind the first ``own``; those with key ≥ 0 repeat the event of that number."""
    new = np.flatnonzero(rows.key < 0)
    rows.key[:own] = np.arange(own)
    rows.key[new] = own + np.arange(len(new))


def _plant(world: World, file: FilePlan, rows: Rows, counts: dict[str, int], draw: np.random.Generator) -> list[Rows]:
    """Change rows in place, each once at most; give back the rows that are to be added."""
    if not any(counts.values()):
        return []
    rows.key = np.arange(len(rows))
    free = draw.permutation(len(rows))
    valued = free[rows.value_form[free] == NUMBER][: counts.get("redelivered", 0)]
    free = free[~np.isin(free, valued, kind="table")] if len(valued) else free
    taken = {"redelivered": valued}
    for name in (*FAULTS, "malformed", "duplicate", "near_duplicate", "late", "near_future"):
        taken[name], free = free[: counts.get(name, 0)], free[counts.get(name, 0) :]
    for name, fault in FAULTS.items():
        if len(taken[name]):
            fault(rows, taken[name], draw, world.spec)
            rows.rule[taken[name]] = CODE[name]
    lagging = _few(world, rows, np.concatenate([taken["late"], taken["near_future"]]), 8)
    _lag(world, rows, lagging, taken["late"], draw)
    repeated = _few(world, rows, np.concatenate([taken[name] for name in EXTRA]), 2)
    added = [_extra(rows, np.intersect1d(taken[name], repeated), name, draw) for name in EXTRA]
    added.append(_malformed(rows.take(taken["malformed"])))
    return [part for part in added if len(part)]


def _few(world: World, rows: Rows, at: Ints, part: int) -> Ints:
    """Not too many of these rows of one ordinary user, whose day must stay far from a bot's."""
    most = world.spec.ordinary_most // part
    order = np.argsort(rows.user[at], kind="stable")
    user = rows.user[at][order]
    place = np.arange(len(at)) - np.searchsorted(user, user, side="left")
    hot = (user == HOT) & (world.spec.hot_user_share > 0)
    return at[order[(place < most) | hot]]


def _lag(world: World, rows: Rows, at: Ints, late: Ints, draw: np.random.Generator) -> None:
    """Move good rows to a day near that of their folder; nobody appears before the day of joining."""
    joined_on = np.maximum(
        world.first_day(rows.user[at], world.spec.users), world.first_day(rows.item[at], world.spec.items)
    )
    back = np.where(joined_on == 0, LOOK_BACK_DAYS, np.minimum(rows.day[at] - joined_on, LOOK_BACK_DAYS))
    by = draw.integers(1, LOOK_BACK_DAYS + 1, len(at))
    days = np.where(np.isin(at, late), -np.minimum(by, back), by)
    shift(rows, at[days != 0], days[days != 0])


def _extra(rows: Rows, at: Ints, name: str, draw: np.random.Generator) -> Rows:
    """Rows that stand some minutes after those that they repeat."""
    extra = rows.take(at).with_rule(name)
    extra.arrival = extra.arrival + draw.integers(1, 600 * SECOND, len(at))
    if name == "redelivered":
        extra.value = _corrected(extra, 1)
    if name == "near_duplicate":
        extra.key = np.full(len(at), -1)
        # a time in whole seconds stays what it is: rounding must not carry it past the limit
        later = in_form(extra.time + draw.integers(100_000, 900_000, len(at)), extra.form)
        extra.time = np.where(extra.form == SECONDS, extra.time, later)
    return extra


def _malformed(rows: Rows) -> Rows:
    count = len(rows)
    return replace(rows.with_rule("malformed"), key=np.full(count, -1), day=np.full(count, NO_DAY, np.int32))


def _corrected(rows: Rows, step: int) -> np.ndarray:
    """Other values of the same kind: ratings stay between 1 and 5."""
    return np.where(rows.kind == RATING, (rows.value - 1 + step) % 5 + 1, rows.value + step)


def _bot(world: World, file: FilePlan, number: int, size: int, session: int, draw: np.random.Generator) -> Rows:
    shelf = world.shelf(file.cell_day)
    item = draw.choice(shelf.order, size)
    kind = draw.integers(0, VIEW + 1, size)
    slot = np.sort(draw.integers(0, SLOTS, size))
    bot = finish(world, file, np.full(size, BOT - number), item, kind, slot, np.full(size, session), draw)
    bot.key = np.full(size, -1)
    bot.value_form = np.full(size, NO_VALUE, np.int8)
    return bot.with_rule("extreme_activity")


def _again(rows: Rows, file: FilePlan, corrections: float) -> Rows:
    """The rows as they are judged when their file comes a second time."""
    good = np.isin(rows.rule, [CODE[name] for name in (KEPT, *DUPLICATES)])
    late = good & (file.day - rows.day > LOOK_BACK_DAYS)
    rule = np.where(late, CODE["too_late"], np.where(good, CODE["duplicate"], rows.rule)).astype(np.int8)
    again = replace(rows, rule=rule)
    if corrections:
        draw = np.random.default_rng([file.number, file.day])
        chosen = (rows.rule == CODE[KEPT]) & ~late & (rows.value_form == NUMBER) & (draw.random(len(rows)) < CORRECTED)
        again.value[chosen] = _corrected(rows.take(np.flatnonzero(chosen)), 2)
        again.rule[chosen] = CODE["redelivered"]
    return again
