"""What a published table of lists promises, counted over all of its rows: each figure is one of broken promises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.arms import ARM, arm_of
from recsys_spark.config import Settings
from recsys_spark.config.experiment import Experiment
from recsys_spark.cuts import FINAL, cut
from recsys_spark.scoring.lists import EXPLORE, PERSONAL

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


@dataclass(frozen=True)
class Promised:
    """What the lists are held against.

    Parameters
    ----------
    settings : Settings
    dt : str
        The run's day.
    events : DataFrame
        ``user_id``, ``item_id``, ``event_time`` of all events with items that have an index.
    rules : DataFrame
        ``item_id`` and the columns of ``item_rules``.
    longest : int
        Length of a list that takes items as long as the caps allow, for a user from whom nothing is hidden.
    """

    settings: Settings
    dt: str
    events: DataFrame
    rules: DataFrame
    longest: int

    def hidden(self) -> DataFrame | None:
        """Pairs of user and item that must not be shown; None where nothing is hidden."""
        from pyspark.sql import functions as F

        rules, events = self.settings.rules, self.events
        if rules.hide_seen == "none":
            return None
        if rules.hide_seen == "window":
            since = cut(self.dt, self.settings.split, FINAL).time - rules.hide_days * c.SECONDS_PER_DAY
            events = events.where(F.unix_seconds(c.EVENT_TIME) >= since)
        return events.select(c.USER_ID, c.ITEM_ID).distinct()


def without_choice(lists: DataFrame, promised: Promised) -> int:
    """Users without a list from whom all that the rules allow is hidden: nothing is left for them."""
    from pyspark.sql import functions as F

    hidden = promised.hidden()
    if hidden is None:
        return 0
    barred = hidden.join(promised.rules.where(c.ALLOWED), on=c.ITEM_ID, how="left_semi")
    owned = barred.groupBy(c.USER_ID).agg(F.count(F.lit(1)).alias("owned")).where(F.col("owned") >= promised.longest)
    return owned.join(lists, on=c.USER_ID, how="left_anti").count()


def shape_problems(lists: DataFrame, n: int, known_users: int, in_order: bool = True) -> dict[str, int]:
    """Users whose ranks, items or scores are not what a list must be.

    Parameters
    ----------
    lists : DataFrame
    n : int
    known_users : int
        Users who must have a list.
    in_order : bool
        Whether scores must not rise along a list.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    before = F.lag(c.SCORE).over(Window.partitionBy(c.USER_ID).orderBy(c.RANK))
    rows = lists.withColumn("rises", F.coalesce((F.col(c.SCORE) > before).cast("int"), F.lit(0)))
    finite = ~F.isnan(c.SCORE) & (F.abs(c.SCORE) < F.lit(float("inf")))
    per_user = rows.groupBy(c.USER_ID).agg(
        F.count(F.lit(1)).alias("rows"),
        F.max(c.RANK).alias("last"),
        F.min(c.RANK).alias("first"),
        F.countDistinct(c.RANK).alias("ranks"),
        F.countDistinct(c.ITEM_ID).alias("items"),
        F.sum("rises").alias("rises"),
        F.sum((~F.coalesce(finite, F.lit(False))).cast("int")).alias("not_finite"),
    )
    gaps = (F.col("ranks") != F.col("rows")) | (F.col("first") != 1) | (F.col("last") != F.col("rows"))

    rising = {"users with rising scores": F.col("rises") > 0} if in_order else {}
    wrong = {
        "users with gaps in ranks": gaps,
        "users with too many rows": F.col("rows") > n,
        "users with an item twice": F.col("items") != F.col("rows"),
        **rising,
        "users with scores that are no numbers": F.col("not_finite") > 0,
    }
    problems = _counted(per_user, {"users": F.lit(True), **wrong})
    return problems | {"known users without a list": abs(known_users - problems.pop("users"))}


def item_problems(lists: DataFrame, promised: Promised) -> dict[str, int]:
    """Rows with an item that must not be there, and lists that are shorter than they could be."""
    from pyspark.sql import functions as F

    asked, hidden, marks = promised.settings.rules, promised.hidden(), {}
    catalogue = promised.events.select(c.ITEM_ID).distinct()
    if asked.explore.places:
        catalogue = catalogue.union(promised.rules.where(c.NEW).select(c.ITEM_ID)).distinct()
    if asked.pins or asked.pin_table:
        catalogue = catalogue.union(promised.rules.where(F.col(c.PINNED) > 0).select(c.ITEM_ID)).distinct()
    if promised.settings.cold.new_items:
        catalogue = promised.rules.select(c.ITEM_ID)
    rows = lists.join(promised.rules.select(c.ITEM_ID, c.ALLOWED, c.NEW), on=c.ITEM_ID, how="left")
    rows = rows.join(catalogue.withColumn("listed", F.lit(True)), on=c.ITEM_ID, how="left")
    marks["items outside the catalogue"] = F.col("listed").isNull()
    marks["items that the rules forbid"] = ~F.coalesce(c.ALLOWED, F.lit(False))
    if hidden is not None:
        rows = rows.join(hidden.withColumn("barred", F.lit(True)), on=[c.USER_ID, c.ITEM_ID], how="left")
        marks["items that the user already has"] = F.col("barred").isNotNull()
    if asked.explore.places:
        marks["explored items that are not new"] = (F.col(c.SOURCE) == EXPLORE) & ~F.coalesce(c.NEW, F.lit(False))
    if asked.min_score is not None:
        low = F.col(c.SCORE) < F.lit(asked.min_score).cast("float")
        marks["personal items below rules.min_score"] = (F.col(c.SOURCE) == PERSONAL) & low
    return _counted(rows, marks) | _length_problems(lists, promised, hidden)


def _length_problems(lists: DataFrame, promised: Promised, hidden: DataFrame | None) -> dict[str, int]:
    """Users with too short a list, or with too many new items."""
    from pyspark.sql import functions as F

    settings, left = promised.settings, F.lit(promised.longest)
    explored = F.count_if(F.col(c.SOURCE) == EXPLORE)
    users = lists.groupBy(c.USER_ID).agg(F.count(F.lit(1)).alias("rows"), explored.alias("explored"))
    if hidden is not None:
        barred = hidden.join(promised.rules.where(c.ALLOWED), on=c.ITEM_ID, how="left_semi")
        owned = barred.groupBy(c.USER_ID).agg(F.count(F.lit(1)).alias("owned"))
        users = users.join(owned, on=c.USER_ID, how="left")
        left = left - F.coalesce("owned", F.lit(0))
    # of several caps at once, lists that take items in another order may end at a share of the longest
    possible = F.ceil(left / max(1, len(settings.rules.caps)))
    marks = {"users with too short a list": F.col("rows") < F.least(F.lit(settings.score.n), possible)}
    if settings.rules.explore.places:
        marks["users with too many new items"] = F.col("explored") > settings.rules.explore.places
    return _counted(users, marks)


def _counted(rows: DataFrame, marks: dict[str, Column]) -> dict[str, int]:
    """Number of rows for which each condition is true."""
    from pyspark.sql import functions as F

    found = rows.agg(*[F.count_if(condition).alias(name) for name, condition in marks.items()]).collect()[0]
    return {name: int(found[name]) for name in marks}


def place_problems(lists: DataFrame, promised: Promised) -> dict[str, int]:
    """Caps and pins; nothing is counted where the settings have none."""
    from pyspark.sql import functions as F

    rules, asked = promised.rules, promised.settings.rules
    problems: dict[str, int] = {}
    if asked.caps:
        most = F.array(*[F.lit(each.most) for each in asked.caps])
        coded = lists.join(rules, on=c.ITEM_ID, how="inner").select(
            c.USER_ID, F.posexplode(c.CAPS).alias("cap", "code")
        )
        held = coded.where("code != 0").groupBy(c.USER_ID, "cap", "code").count()
        over = held.where(F.col("count") > F.element_at(most, F.col("cap") + 1))
        problems["users with more of a value than a cap allows"] = over.select(c.USER_ID).distinct().count()
    if asked.pins or asked.pin_table:
        problems["pinned items that are not at their rank"] = _misplaced(lists, promised)
    return problems


def arm_problems(lists: DataFrame, test: Experiment, versions: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Users who are in another arm than their id says, and rows by another model than their arm's.

    Parameters
    ----------
    lists : DataFrame
    test : Experiment
        Of the settings.
    versions : dict
        Arm to the versions of its retrieval model and ranker; empty on a night without a test, when nobody has an arm.
    """
    from pyspark.sql import functions as F

    if test.name is None:
        return {}
    if not versions:
        return {"users with an arm of no test": lists.where(F.col(ARM).isNotNull()).count()}
    wrong = ~F.col(ARM).eqNullSafe(arm_of(F.col(c.USER_ID), test.name, test.share))
    fits = F.lit(False)
    for arm, (retrieval, ranker) in versions.items():
        same = (F.col("retrieval_version") == retrieval) & (F.col("ranker_version") == ranker)
        fits = fits | ((F.col(ARM) == arm) & same)
    marks = {
        "rows of users in another arm": wrong,
        "rows by another model than their arm's": ~F.coalesce(fits, F.lit(False)),
    }
    return _counted(lists, marks)


def _misplaced(lists: DataFrame, promised: Promised) -> int:
    """Rows of full lists with another item where a pinned one must be; short lists have moved together."""
    from pyspark.sql import functions as F

    pins = promised.rules.where(F.col(c.PINNED) > 0)
    pins = F.broadcast(pins.select(F.col(c.PINNED).alias(c.RANK), F.col(c.ITEM_ID).alias("pin")))
    full = lists.where(F.col(c.RANK) == promised.settings.score.n).select(c.USER_ID)
    there = lists.join(full, on=c.USER_ID, how="left_semi").join(pins, on=c.RANK, how="inner")
    others = there.where(F.col(c.ITEM_ID) != F.col("pin")).select(c.USER_ID, F.col("pin").alias(c.ITEM_ID))
    hidden = promised.hidden()
    return (others if hidden is None else others.join(hidden, on=[c.USER_ID, c.ITEM_ID], how="left_anti")).count()
