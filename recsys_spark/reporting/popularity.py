"""How much the lists lean to what is popular anyway, beside how much the users themselves do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import FINAL
from recsys_spark.gini import gini
from recsys_spark.reporting.plots import bars_plot
from recsys_spark.stage import Work

GROUPS = 10
LongArray = NDArray[np.int64]
DoubleArray = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """A tenth of the items with an event, by popularity: its share of the recent events, and of the lists' rows."""

    name: str
    of_events: float
    of_rows: float


@dataclass(frozen=True)
class Bias:
    """The lists against the recent events.

    ``mean_of_rows`` and ``mean_of_events`` are recent events of the item of a row, and of an event (average
    recommendation popularity, Abdollahpouri et al. 2019, and its like for the users' own choice). ``new_rows`` is the
    share of rows with items that have no recent event. ``tail`` is what lies outside the head, the fewest items with
    ``head_share`` of the events.
    """

    groups: list[Group]
    gini_of_rows: float
    gini_of_events: float
    mean_of_rows: float
    mean_of_events: float
    tail_of_rows: float
    tail_of_events: float
    new_rows: float
    plot: str


def popularity_bias(work: Work) -> Bias | None:
    """Bias of the night's lists; None where nothing happened lately, or nothing is listed."""
    from pyspark.sql import functions as F

    if "item_stats" not in work.inputs:
        return None
    store, spark = work.store, work.spark
    rows = store.read(spark, work.inputs["top_n"]).groupBy(c.ITEM_ID).agg(F.count(F.lit(1)).alias("shown"))
    ids = store.read(spark, work.inputs["item_ids"]).select(c.ITEM_ID, F.col(c.INDEX).alias(c.ITEM_INDEX))
    stats = store.read(spark, work.inputs["item_stats"]).where(F.col(c.CUT) == FINAL)
    stats = stats.select(c.ITEM_INDEX, F.col("recent_events").alias("events"))
    # items that are alike are counted together: a catalogue of millions has few kinds
    kinds = (
        ids.join(rows, on=c.ITEM_ID, how="left")
        .join(stats, on=c.ITEM_INDEX, how="left")
        .select(*[F.coalesce(F.col(name), F.lit(0)).cast("bigint").alias(name) for name in ("events", "shown")])
        .groupBy("events", "shown")
        .agg(F.count(F.lit(1)).alias("items"))
        .collect()
    )
    found = np.array([(row["events"], row["shown"], row["items"]) for row in kinds], np.int64).reshape(-1, 3)
    return bias_of(found[:, 0], found[:, 1], found[:, 2], work.settings.gate.head_share)


def bias_of(events: LongArray, shown: LongArray, items: LongArray, head_share: float) -> Bias | None:
    """Bias from kinds of items.

    Parameters
    ----------
    events, shown, items : int64 [K]
        So many items have so many recent events and are in so many rows of lists, each.
    head_share : float

    Items with equal numbers of events are shared out evenly where a bound falls among them, so that no order of items
    decides.
    """
    all_events, all_rows = int((events * items).sum()), int((shown * items).sum())
    if not all_events or not all_rows:
        return None
    negative, place = np.unique(-events, return_inverse=True)  # kinds of equal popularity, the most popular first
    there = negative < 0
    counts, shown_rows = (np.bincount(place, weights=values).astype(np.float64) for values in (items, shown * items))
    count, rows, absent = counts[there], shown_rows[there], float(shown_rows[~there].sum())
    total: DoubleArray = -negative[there].astype(np.float64) * count
    bounds = np.linspace(0, count.sum(), GROUPS + 1)
    of_events, of_rows = (_between(count, part, bounds) for part in (total, rows))
    head = float(np.interp(head_share * all_events, np.append(0, np.cumsum(total)), np.append(0, count.cumsum())))
    tail = [
        1 - float(_between(count, part, np.array([0.0, head]))[0]) for part in (total / all_events, rows / all_rows)
    ]
    names = [str(number) for number in range(1, GROUPS + 1)]
    groups = [
        Group(name, float(one / all_events), float(two / all_rows))
        for name, one, two in zip(names, of_events, of_rows, strict=True)
    ]
    catalogue = int(items.sum())
    return Bias(
        groups,
        gini(shown.tolist(), items.tolist(), catalogue),
        gini(events.tolist(), items.tolist(), catalogue),
        float((events * shown * items).sum() / all_rows),
        float((events.astype(np.float64) ** 2 * items).sum() / all_events),
        tail[1],
        tail[0],
        absent / all_rows,
        _plot(groups),
    )


def _between(count: DoubleArray, total: DoubleArray, bounds: DoubleArray) -> DoubleArray:
    """Parts of a total that lie between bounds in numbers of items, the most popular first."""
    return np.diff(np.interp(bounds, np.append(0, count.cumsum()), np.append(0, total.cumsum())))


def _plot(groups: list[Group]) -> str:
    series = {"events of late": [g.of_events for g in groups], "rows of the lists": [g.of_rows for g in groups]}
    told = ", ".join(f"{g.name}: {g.of_events:.1%} and {g.of_rows:.1%}" for g in groups)
    label = f"Share of events and of list rows by tenth of the items, the most popular first: {told}"
    return bars_plot(
        "popularity", label, [g.name for g in groups], series, "tenth of the items, the most popular first"
    )
