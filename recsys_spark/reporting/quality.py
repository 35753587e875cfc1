"""NDCG of every model with intervals, for all users and for parts of them, from the figures of each user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import Gate
from recsys_spark.reporting.outcome import Judgement
from recsys_spark.reporting.plots import intervals_plot
from recsys_spark.resampling import intervals
from recsys_spark.stage import Work
from recsys_spark.tables.arrays import read_parquet

TONIGHT = "tonight"
RIVALS = {
    TONIGHT: "tonight's model",
    "champion": "the champion",
    "repeat": "own items",
    "item_knn": "ItemKNN",
    "popularity": "most popular",
}
DoubleArray = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """A mean over users with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """Some of the users, or of what they took; ``spreads`` has a figure a model, in the order of ``Quality.models``."""

    name: str
    users: int
    spreads: list[Spread]


@dataclass(frozen=True)
class Quality:
    """All models over the same users.

    ``parts`` begin with all users. ``plot`` shows these; ``differences`` tonight's model less each rival, where the
    gate has compared them.
    """

    k: int
    confidence: float
    models: list[str]
    parts: list[Part]
    plot: str
    differences: str

    def of(self, model: str) -> Spread | None:
        """Figure of a model over all users."""
        name = RIVALS[model]
        return self.parts[0].spreads[self.models.index(name)] if name in self.models else None


def quality(work: Work, gate: Judgement | None) -> Quality | None:
    """Figures from the table ``user_metrics``; None where there are none."""
    if "user_metrics" not in work.inputs:
        return None
    table = read_parquet(work.store.storage, work.inputs["user_metrics"].folder)
    if not len(table):
        return None
    model = np.array(table["model"].to_pylist())
    user, events, k, ndcg, tail = (
        table[name].to_numpy() for name in ("user_index", "events", "k", "ndcg", "tail_ndcg")
    )
    names = [name for name in RIVALS if (model == name).any()]
    order = {name: np.flatnonzero(model == name) for name in names}
    order = {name: places[np.argsort(user[places], kind="stable")] for name, places in order.items()}
    of_users = np.stack([ndcg[order[name]] for name in names], axis=1).astype(np.float64)
    of_tail = np.stack([tail[order[name]] for name in names], axis=1).astype(np.float64)
    settings = work.settings.gate
    parts = parts_of(of_users, of_tail, events[order[names[0]]], settings)
    models = [RIVALS[name] for name in names]
    rows = [(name, each.value, each.low, each.high) for name, each in zip(models, parts[0].spreads, strict=True)]
    told = "; ".join(f"{name} {value:.4f}, {low:.4f} to {high:.4f}" for name, value, low, high in rows)
    plot = intervals_plot("ndcg-intervals", f"NDCG@{int(k[0])} with intervals: {told}", rows)
    return Quality(int(k[0]), settings.confidence, models, parts, plot, _differences(gate))


def parts_of(ndcg: DoubleArray, tail: DoubleArray, events: NDArray[np.integer], gate: Gate) -> list[Part]:
    """All users, those with few, some and most events, and tail items.

    Parameters
    ----------
    ndcg, tail : float64 [U, M]
        Of each user by every model; NaN where there is no truth.
    events : int [U]
        Known before the test window.
    gate : Gate
        Says who is new and who heavy, and how intervals are made.
    """
    least = int(np.quantile(events, 1 - gate.heavy_share, method="higher")) if len(events) else 0
    new, heavy = events <= gate.new_events, (events >= least) & (events > gate.new_events)
    masks = {
        "all users": np.ones(len(events), bool),
        f"up to {gate.new_events:,} events": new,
        "more events": ~new & ~heavy,
        f"{least:,} events or more": heavy,
    }
    columns = [np.where(mask[:, None], ndcg, np.nan) for mask in masks.values()]
    columns.append(tail)
    values = np.concatenate(columns, axis=1)
    bounds = intervals(values, gate.confidence, gate.resamples, gate.seed)
    parts, models = [], ndcg.shape[1]
    for place, name in enumerate([*masks, "tail items only"]):
        mine = values[:, place * models : (place + 1) * models]
        there = ~np.isnan(mine).any(axis=1)
        if not there.any():
            continue
        spreads = [
            Spread(float(np.nanmean(mine[:, which])), *map(float, bounds[place * models + which]))
            for which in range(models)
        ]
        parts.append(Part(name, int(there.sum()), spreads))
    return parts


def _differences(gate: Judgement | None) -> str:
    """Tonight's model less its rivals as a drawing; empty where nothing was compared."""
    rows = [] if gate is None else [row for row in gate.failed + gate.passed if row["users"]]
    if not rows:
        return ""
    order = list(RIVALS)
    rows.sort(
        key=lambda row: (order.index(row["rival"]) if row["rival"] in order else len(order), row["slice"] != "all")
    )
    lines = []
    for row in rows:
        rival = RIVALS.get(row["rival"], row["rival"])
        name = rival if row["slice"] == "all" else row["slice"]
        lines.append((name, row["value"] - row["rival_value"], row["low"], row["high"]))
    told = "; ".join(f"{name} {value:+.4f}, {low:+.4f} to {high:+.4f}" for name, value, low, high in lines)
    return intervals_plot("ndcg-differences", f"Tonight's NDCG less the rival's, with intervals: {told}", lines, True)
