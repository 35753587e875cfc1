"""The metrics table as a person reads it: a block a slice, a row a model, the best value marked."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from recsys_spark.reporting.words import BY_SOURCE, METRICS, SLICES

PUBLISHED = "ranker"  # by default
BASELINES = ("popularity", "recent_popularity", "repeat", "repeat_decayed", "item_knn")
FIRST_K = 10
FIRST_METRIC = "ndcg"
DESCRIBES = ("coverage", "intra_list_distance", "gini")  # what lists are like: more is not better by itself

Key = tuple[str, str, str, int]  # model, slice, metric, k


@dataclass(frozen=True)
class Cell:
    """A value as text; ``best`` of its column."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A model's row."""

    name: str
    does: str
    published: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Grid:
    """All models at one list length."""

    k: int
    columns: list[str]
    lines: list[Line]


@dataclass(frozen=True)
class Block:
    """One slice: the grid at the first list length, and the others."""

    name: str
    does: str
    users: str
    verdict: str
    ahead: bool | None
    first: Grid
    more: list[Grid]


@dataclass(frozen=True)
class Share:
    """Part of the published list's figures that rows of one source bring."""

    source: str
    k: int
    ndcg: float
    recall: float


@dataclass(frozen=True)
class Figures:
    """Everything the table ``metrics`` says of the test window."""

    blocks: list[Block]
    ranker: list[tuple[str, str, str]]  # name, value, rows behind it
    headline: tuple[float, float, int] | None  # published, best baseline, k; of the headline slice
    by_source: list[Share]
    candidates: list[tuple[float, float, int, str]]  # share of the truth, candidates, users, slice


def figures(
    rows: Iterable[tuple[Key, float | None, int]],
    names: dict[str, tuple[str, str]],
    headline: str = "all",
    published: str = PUBLISHED,
) -> Figures:
    """Arrange the rows of the metrics table.

    Parameters
    ----------
    rows : iterable
        ((model, slice, metric, k), value, users) of the test split.
    names : dict
        Model → name and what it does, in order; models not in it come last under their code.
    headline : str
        Slice of the page's first figure: the one that the published lists are made for.
    published : str
        Model whose order is published.
    """
    values: dict[Key, tuple[float, int]] = {
        key: (math.nan if value is None else value, users) for key, value, users in rows
    }
    others = sorted({key[1] for key in values if not key[1].startswith(BY_SOURCE)} - set(SLICES))
    slices = [*SLICES, *others]
    blocks = [block for part in slices if (block := _block(values, part, names, published)) is not None]
    shown = _headline(values, headline, published)
    return Figures(blocks, _ranker(values), shown, _by_source(values), _candidates(values, slices))


def _by_source(values: dict[Key, tuple[float, int]]) -> list[Share]:
    """Sources that bring something, at the first list length."""
    slices = sorted({key[1] for key in values if key[1].startswith(BY_SOURCE)})
    ks = sorted({key[3] for key in values if key[1].startswith(BY_SOURCE)}, key=lambda k: (k != FIRST_K, k))
    shares = []
    for part in slices:
        ndcg, recall = (values.get(("ranker", part, metric, ks[0]), (0.0, 0))[0] for metric in ("ndcg", "recall"))
        shares.append(Share(part.removeprefix(BY_SOURCE), ks[0], ndcg, recall))
    return sorted((share for share in shares if share.recall > 0), key=lambda share: -share.ndcg)


def _candidates(values: dict[Key, tuple[float, int]], slices: list[str]) -> list[tuple[float, float, int, str]]:
    found = []
    for part in slices:
        share, count = (values.get(("candidates", part, name, 0)) for name in ("recall", "candidates"))
        if share is not None and count is not None:
            found.append((share[0], count[0], share[1], SLICES.get(part, (part, ""))[0]))
    return found


def _block(
    values: dict[Key, tuple[float, int]], part: str, names: dict[str, tuple[str, str]], published: str
) -> Block | None:
    here = {key: value for key, value in values.items() if key[1] == part and key[3] > 0}
    ks = sorted({key[3] for key in here}, key=lambda k: (k != FIRST_K, k))
    if not ks:
        return None
    found = {key[0] for key in here}
    models = [name for name in names if name in found] + sorted(found - set(names))
    grids = [_grid(here, part, k, models, names, published) for k in ks]
    name, does = SLICES.get(part, (part, ""))
    counted = sorted({users for key, (_, users) in here.items() if key[2] not in DESCRIBES})
    users = f"{counted[-1]:,}" if counted else "0"
    if len(counted) > 1:
        users = f"{counted[0]:,} to {users}"
    verdict, ahead = _verdict(values, part, names, published)
    return Block(name, does, users, verdict, ahead, grids[0], grids[1:])


def _grid(
    here: dict[Key, tuple[float, int]],
    part: str,
    k: int,
    models: list[str],
    names: dict[str, tuple[str, str]],
    published: str,
) -> Grid:
    at_k = {(model, metric): value for (model, _, metric, each), (value, _) in here.items() if each == k}
    found = {metric for _, metric in at_k}
    metrics = [name for name in METRICS if name in found] + sorted(found - set(METRICS))
    best = {
        metric: max((v for (_, m), v in at_k.items() if m == metric and math.isfinite(v)), default=math.nan)
        for metric in metrics
        if metric not in DESCRIBES
    }
    lines = [
        Line(
            *names.get(model, (model, "")),
            model == published,
            [_cell(at_k.get((model, metric), math.nan), metric, best.get(metric)) for metric in metrics],
        )
        for model in models
    ]
    return Grid(k, [METRICS.get(metric, metric) for metric in metrics], lines)


def _cell(value: float, metric: str, best: float | None) -> Cell:
    if not math.isfinite(value):
        return Cell("–")
    text = f"{100 * value:.2f} %" if metric == "coverage" else f"{value:.4f}"
    return Cell(text, value == best and value > 0)


def _headline(values: dict[Key, tuple[float, int]], part: str, published: str) -> tuple[float, float, int] | None:
    ks = [key[3] for key in values if key[:3] == (published, part, FIRST_METRIC)]
    if not ks:
        return None
    k = FIRST_K if FIRST_K in ks else min(ks)
    ours = values[published, part, FIRST_METRIC, k][0]
    theirs = [values.get((model, part, FIRST_METRIC, k), (math.nan, 0))[0] for model in BASELINES]
    best = max((value for value in theirs if math.isfinite(value)), default=math.nan)
    return (ours, best, k) if math.isfinite(ours) and math.isfinite(best) else None


def _verdict(
    values: dict[Key, tuple[float, int]], part: str, names: dict[str, tuple[str, str]], published: str
) -> tuple[str, bool | None]:
    """Compare the published list with the best plain row, in one sentence."""
    compared = _headline(values, part, published)
    if compared is None:
        return "", None
    ours, best, k = compared
    rival = next(m for m in BASELINES if values.get((m, part, FIRST_METRIC, k), (math.nan, 0))[0] == best)
    name = names.get(rival, (rival, ""))[0]
    if ours == best:
        relation, change = "is level with", ""
    else:
        relation = f"is {'ahead of' if ours > best else 'behind'}"
        change = f" by {abs(ours / best - 1):.1%}" if best > 0 else ""
    own = " without what the user already had" if part == "new" else ""
    ours_text, rival_text = (
        f"the published list{own} ({ours:.4f})",
        f"the best plain rule, “{name}” ({best:.4f})",
    )
    return f"NDCG@{k}: {ours_text} {relation} {rival_text}{change}.", ours >= best


def _ranker(values: dict[Key, tuple[float, int]]) -> list[tuple[str, str, str]]:
    shown = []
    for metric, name in (("auc", "AUC"), ("logloss", "Log loss")):
        for (_, part, found, _), (value, users) in sorted(values.items()):
            if found == metric and math.isfinite(value):
                suffix = "" if part == "all" else f", {SLICES.get(part, (part, ''))[0].lower()}"
                shown.append((name + suffix, f"{value:.4f}", f"{users:,}"))
    return shown
