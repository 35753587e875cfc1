"""Stage ``rules``: what the settings and the shop's own lists say of each item, as a table that ``score`` obeys.

Lists and expressions are about items, so they are judged once a night, here, and not once a user. What is about users
(what they have already, how many of a brand stand in one list) is left to the stage ``score``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from math import log
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.cleaning.id_lists import LISTS, list_facts, read_list
from recsys_spark.cleaning.item_view import item_view, select_expressions, working_out
from recsys_spark.config import Cap, Rules
from recsys_spark.cuts import FINAL, cut
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import TABLES, Manifest
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

_WHERE = "__where"
_INDEX, _EVENTS, _FIRST = "__index", "__events", "__first"


def write_item_rules(work: Work) -> list[Manifest]:
    """Write ``item_rules``.

    Raises
    ------
    RecsysError
        A list cannot be read or is empty; an expression names a column that is not there, or is none; no item may be
        shown. Readers keep the lists published before.
    """
    rules, n = work.settings.rules, work.settings.score.n
    lists = {
        name: read_list(work.spark, table, f"rules.{name}").persist()
        for name in LISTS
        if (table := getattr(rules, name)) is not None
    }
    judged = _judged(work, lists).persist()
    with working_out():
        judged.count()
    _tell_unknown(judged, lists, rules)
    pins = _pins(judged, lists.get("pin_table"), rules, n)
    of_pins = small_frame(work.spark, pins, f"{c.ITEM_INDEX} int, {c.PINNED} int")
    table = judged.join(_broadcast(of_pins), on=c.ITEM_INDEX, how="left").fillna(0, [c.PINNED])
    names = [part.split()[0] for part in TABLES["item_rules"].schema.replace("array<bigint>", "array").split(", ")]
    longest = _longest(judged, rules.caps)
    _check_length(longest, n, rules)
    return [work.store.write(table.select(*names), "item_rules", work.stamp, extra={"longest": longest})]


def _judged(work: Work, lists: dict[str, DataFrame]) -> DataFrame:
    """A row an item of ``item_ids``: the columns of ``item_rules`` but ``pinned``, item_id, and ``__events``."""
    from pyspark.sql import functions as F

    rules, store = work.settings.rules, work.store
    at = cut(work.dt, work.settings.split, FINAL)
    read = {name: store.read(work.spark, work.inputs[name]) for name in ("item_ids", "items", "item_stats")}
    stats = read["item_stats"].where(F.col(c.CUT) == FINAL)
    of_item = [(c.ITEM_INDEX, _INDEX), ("events", _EVENTS), ("first_time", _FIRST)]
    stats = stats.select(*[F.col(name).alias(here) for name, here in of_item])
    ids = read["item_ids"].withColumnRenamed(c.INDEX, _INDEX).join(stats, on=_INDEX, how="left").fillna(0, [_EVENTS])
    for name in ("allow", "deny"):
        listed = lists.get(name)
        if listed is not None:
            ids = ids.join(listed.withColumn(f"__{name}", F.lit(True)), on=c.ITEM_ID, how="left")
    allowed = F.coalesce(F.col(_WHERE), F.lit(False)) if rules.where else F.lit(True)
    allowed = allowed & F.col("__allow").isNotNull() if "allow" in lists else allowed
    allowed = allowed & F.col("__deny").isNull() if "deny" in lists else allowed
    since = at.time - rules.explore.days * c.SECONDS_PER_DAY
    return _expressions(item_view(ids, read["items"], work.settings), rules).select(
        F.col(_INDEX).alias(c.ITEM_INDEX),
        c.ITEM_ID,
        allowed.alias(c.ALLOWED),
        c.BOOST,
        ((F.col(_EVENTS) == 0) | (F.col(_FIRST) >= since)).alias(c.NEW),
        c.CAPS,
        _EVENTS,
    )


def _expressions(view: DataFrame, rules: Rules) -> DataFrame:
    """The view with what its expressions say: ``__where``, ``boost`` and ``caps``."""
    from pyspark.sql import functions as F

    asked = {_WHERE: ("rules.where", rules.where)} if rules.where else {}
    asked |= {f"__boost_{i}": (f"rules.boosts[{i}].where", each.where) for i, each in enumerate(rules.boosts)}
    view = select_expressions(view, asked, [each.column for each in rules.caps])
    amounts = [log(each.multiply) if each.multiply else float(each.add or 0) for each in rules.boosts]
    parts = [F.when(F.col(f"__boost_{i}"), amount).otherwise(0.0) for i, amount in enumerate(amounts)]
    boost = reduce(lambda one, other: one + other, parts, F.lit(0.0))
    return view.withColumn(c.BOOST, boost.cast("float")).withColumn(
        c.CAPS, F.array(*[_code(each) for each in rules.caps]).cast("array<bigint>")
    )


def _code(cap: Cap) -> Column:
    """Hash of the item's value; 0 where it has none."""
    from pyspark.sql import functions as F

    text = F.trim(F.col(f"`{cap.column}`").cast("string"))
    return F.when(text != "", F.xxhash64(text)).otherwise(F.lit(0).cast("bigint"))


def _pins(judged: DataFrame, table: DataFrame | None, rules: Rules, n: int) -> list[tuple[int, int]]:
    """Item index and rank of the pins that can be obeyed, by rank; what cannot be is said and left out.

    Raises
    ------
    RecsysError
        Two pins have one place, or one item two.
    """
    wanted = [(each.item_id, each.rank) for each in rules.pins]
    if table is not None:
        wanted += [(row[c.ITEM_ID], row[c.RANK]) for row in table.where(table[c.RANK] <= n).collect()]
        deep = table.where(table[c.RANK] > n).count()
        if deep:
            say(f"rules: {deep:,} pins have a rank beyond the {n} places of a list and are left out")
    for side, what in ((0, "item"), (1, "rank")):
        values = [each[side] for each in wanted]
        twice = next((each for each in values if values.count(each) > 1), None)
        if twice is not None:
            raise RecsysError(f"{what} '{twice}' is pinned twice", "rules.pins and rules.pin_table", "Take one out.")
    ranks = dict(wanted)
    found = judged.where(judged[c.ITEM_ID].isin(list(ranks))).collect() if ranks else []
    rows = {row[c.ITEM_ID]: row for row in found}
    held: dict[tuple[int, int], int] = {}
    pins = []
    for item, rank in sorted(wanted, key=lambda each: each[1]):
        row = rows.get(item)
        codes = [] if row is None else [(i, code) for i, code in enumerate(row[c.CAPS]) if code]
        full = any(held.get(code, 0) >= rules.caps[code[0]].most for code in codes)
        if row is None or not row[c.ALLOWED] or full:
            why = "is not in the catalogue" if row is None else "is over a cap" if full else "must not be shown"
            say(f"rules: pinned item '{item}' {why} and is left out")
            continue
        held |= {code: held.get(code, 0) + 1 for code in codes}
        pins.append((row[c.ITEM_INDEX], rank))
    return pins


def _tell_unknown(judged: DataFrame, lists: dict[str, DataFrame], rules: Rules) -> None:
    """Say how many ids of each list no item has; refuse a list of allowed items that allows none.

    Raises
    ------
    RecsysError
        The list of allowed items is empty, or names no item of the catalogue.
    """
    for name, listed in lists.items():
        if name == "pin_table":
            continue  # each of its items is told by itself
        path = getattr(rules, name).path
        total = listed.count()
        unknown = listed.join(judged, on=c.ITEM_ID, how="left_anti").orderBy(c.ITEM_ID)
        count = unknown.count()
        if count:
            first = unknown.first()
            say(f"rules: {count:,} of {total:,} ids of rules.{name} are no items, such as '{first[c.ITEM_ID]}'")  # type: ignore[index]
        if name == "allow" and count == total:
            found = f"none of its {total:,} ids is an item" if total else "the list is empty"
            raise RecsysError(f"{found}, so that nothing could be shown", path, "Bring the list, or unset rules.allow.")


def _longest(judged: DataFrame, caps: list[Cap]) -> int:
    """Length of a list that takes items as long as the caps allow, of those that may be shown and have an event."""
    from pyspark.sql import functions as F

    shown = judged.where(F.col(c.ALLOWED) & (F.col(_EVENTS) > 0))
    groups = shown.groupBy(c.CAPS).count().collect()
    return longest_list(((row[c.CAPS], row["count"]) for row in sorted(groups, key=lambda row: row[c.CAPS])), caps)


def longest_list(groups: Iterable[tuple[list[int], int]], caps: list[Cap]) -> int:
    """Items that are taken one after the other as long as no cap forbids the next.

    Parameters
    ----------
    groups : iterable
        A code of each cap, and the number of items with these codes.
    caps : list of Cap
    """
    held: dict[tuple[int, int], int] = {}
    total = 0
    for codes, count in groups:
        capped = [(i, code) for i, code in enumerate(codes) if code]
        room = min([count, *[caps[i].most - held.get((i, code), 0) for i, code in capped]])
        held |= {each: held.get(each, 0) + room for each in capped}
        total += room
    return total


def _check_length(longest: int, n: int, rules: Rules) -> None:
    """Refuse rules that leave nothing; say where lists become shorter than they should be.

    Raises
    ------
    RecsysError
        No item may be shown.
    """
    if not longest:
        raise RecsysError(
            "no item of the catalogue may be shown",
            "settings 'rules'",
            f"Look at rules.where ({rules.where or 'not set'}), rules.allow and rules.deny; nothing was published.",
        )
    if longest < n:
        say(f"rules: only {longest:,} items can stand in a list, lists will be shorter than {n}")


def _broadcast(frame: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F

    return F.broadcast(frame)


STAGE = Stage(
    name="rules",
    does="which items may be shown, their boosts, caps and pins",
    run=write_item_rules,
    sections=("rules", "features.item", "split", "score.n"),
    inputs=("items", "item_ids", "item_stats"),
    outputs=("item_rules",),
    sources=list_facts,
)
