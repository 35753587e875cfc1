"""Promote, hold or alarm: from each user's NDCG by every model to a verdict. No Spark, no files.

Shape legend: U users, each with a figure by every model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_spark.config import Gate
from recsys_spark.resampling import intervals

TONIGHT, CHAMPION = "tonight", "champion"
ALL_USERS, NEW_USERS, HEAVY_USERS, TAIL = "all", "new users", "heavy users", "tail items"
OK, ALARM, HOLD = "ok", "alarm", "hold"
PROMOTE = {OK: "promote", ALARM: "alarm", HOLD: "hold"}
DoubleArray = NDArray[np.float64]


@dataclass(frozen=True)
class UserFigures:
    """Figures of U users.

    Parameters
    ----------
    ndcg, tail : dict of str to float64 [U]
        By model; ``tail`` where only items outside the head count. NaN where the truth is empty.
    events : int64 [U]
        Known events.
    groups : dict of str to bool [U]
        Slices that the settings name.
    """

    ndcg: dict[str, DoubleArray]
    tail: dict[str, DoubleArray]
    events: NDArray[np.int64]
    groups: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Duel:
    """Tonight's model against a rival, over the users of a slice."""

    rival: str
    slice: str
    users: int
    value: float
    rival_value: float
    low: float
    high: float
    level: str
    says: str


def duels(figures: UserFigures, gate: Gate) -> list[Duel]:
    """Every comparison: with the champion in all slices, with plain rules over all users.

    The difference is sure where the whole interval is below 0. A sure loss against the champion that is larger than the
    settings allow is a hold. A sure loss against a plain rule is a hold where the champion is better than tonight's
    model, and else an alarm: nothing better is at hand.

    The intervals of slices hold for all of them together (Bonferroni): of forty groups that are each tested by
    themselves, one has lost by chance on most nights.
    """
    pairs = []
    rivals = [name for name in figures.ndcg if name != TONIGHT]
    for rival in rivals:
        for name, values in _slices(figures, gate) if rival == CHAMPION else [(ALL_USERS, figures.ndcg)]:
            pairs.append((rival, name, values[TONIGHT], values[rival]))
    if not pairs:
        return []
    differences = np.stack([ours - theirs for _, _, ours, theirs in pairs], axis=1)
    of_slice = np.array([name != ALL_USERS for _, name, _, _ in pairs])
    judged = int((of_slice & (np.count_nonzero(~np.isnan(differences), axis=0) >= gate.min_users)).sum())
    confidence = np.where(of_slice, 1 - (1 - gate.confidence) / max(judged, 1), gate.confidence)
    bounds = intervals(differences, confidence, gate.resamples, gate.seed)
    found = []
    for (rival, name, ours, theirs), (low, high) in zip(pairs, bounds, strict=True):
        there = ~np.isnan(ours - theirs)
        if there.any():
            means = float(ours[there].mean()), float(theirs[there].mean())
            level = _level(rival, name, int(there.sum()), means, float(high), figures, gate)
            says = _says(rival, name, means, float(low), float(high), gate)
            found.append(Duel(rival, name, int(there.sum()), *means, float(low), float(high), level, says))
    return found


def outcome_of(found: list[Duel]) -> tuple[str, str]:
    """The worst level, and the verdict in words."""
    order = (OK, ALARM, HOLD)
    level = max((each.level for each in found), key=order.index, default=OK)
    bad = [each for each in found if each.level == level and level != OK]
    why = (
        bad[0].says if bad else next((each.says for each in found if each.rival == CHAMPION), "nothing to compare with")
    )
    return level, f"{PROMOTE[level]}: {why}"


def _slices(figures: UserFigures, gate: Gate) -> list[tuple[str, dict[str, DoubleArray]]]:
    least = np.quantile(figures.events, 1 - gate.heavy_share) if len(figures.events) else 0
    masks = {NEW_USERS: figures.events <= gate.new_events, HEAVY_USERS: figures.events >= least, **figures.groups}
    slices = [(ALL_USERS, figures.ndcg), (TAIL, figures.tail)]
    for name, mask in masks.items():
        slices.append((name, {model: np.where(mask, values, np.nan) for model, values in figures.ndcg.items()}))
    return slices


def _level(
    rival: str, name: str, users: int, means: tuple[float, float], high: float, figures: UserFigures, gate: Gate
) -> str:
    ours, theirs = means
    if users < gate.min_users or not high < 0:
        return OK
    if rival == CHAMPION:
        allowed = gate.max_loss if name == ALL_USERS else gate.max_slice_loss
        return HOLD if ours < (1 - allowed) * theirs else OK
    champion = figures.ndcg.get(CHAMPION)
    return HOLD if champion is not None and float(np.nanmean(champion)) > ours else ALARM


def _says(rival: str, name: str, means: tuple[float, float], low: float, high: float, gate: Gate) -> str:
    whom = "the champion" if rival == CHAMPION else f"the plain rule '{rival}'"
    sure = f"{gate.confidence:.0%} interval{'' if name == ALL_USERS else ' for all slices together'}"
    interval = f"{means[0] - means[1]:+.4f} ({sure} {low:+.4f} to {high:+.4f})"
    return f"NDCG@{gate.k} of {name}: {means[0]:.4f}, {interval} against {whom}"
