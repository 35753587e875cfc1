"""What each source of candidates adds, and what each source of the published rows hits.

``source:<name>`` are models whose list is what the source gives, in its order. ``candidates`` is what the ranker is
shown: its recall says how much of the truth is among them, and ``candidates`` how many there are; both at k = 0, for
lists of any length. The slices ``source:<name>`` of the ranker have its list with the rows of one source alone: their
figures add up to those of the list, but for hit rate and MRR.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_spark.evaluation.parts import ALL, NEW, Part, ranking_figures
from recsys_spark.ragged import Rows
from recsys_spark.scoring.candidates import Candidates
from recsys_spark.scoring.lists import SOURCES

BY_SOURCE = "source:"
CANDIDATES = "candidates"
_GRID = 2.0**30  # sums of multiples of it are exact, in whatever order buckets are added


def source_figures(
    lists: NDArray[np.int32], sources: NDArray[np.int32], names: tuple[str, ...], truth: Rows, ks: tuple[int, ...]
) -> list[Part]:
    """Figures of the published list by where its rows are from, both int32 [U, K], for some of ``SOURCES``."""
    parts: list[Part] = []
    for name in names:
        only = np.where(sources == SOURCES.index(name), lists, -1).astype(np.int32)
        parts += ranking_figures("ranker", f"{BY_SOURCE}{name}", only, truth, ks)
    return parts


def candidate_figures(found: Candidates, truth: dict[str, Rows], ks: tuple[int, ...]) -> list[Part]:
    """Figures of each source's list, and of all candidates, in both slices."""
    users, parts = len(truth[ALL]), list[Part]()
    for slice_name in (ALL, NEW):
        rows = truth[slice_name]
        for name, each in found.found.items():
            if name == "repeat" and slice_name == NEW:
                continue
            parts += ranking_figures(f"{BY_SOURCE}{name}", slice_name, each.lists(users, max(ks)), rows, ks)
        use = np.ones(len(found.rows), bool) if slice_name == ALL else ~found.own
        parts += _recall(found.rows[use], found.items[use], slice_name, rows)
    return parts


def _recall(rows: NDArray[np.int64], items: NDArray[np.int64], slice_name: str, truth: Rows) -> list[Part]:
    """Share of each user's truth among the candidates, and number of candidates, summed over users with a truth."""
    counted = truth.lengths > 0
    if not counted.any():
        return []
    width = int(max(items.max(initial=0), truth.indices.max(initial=0))) + 1
    hit = np.isin(truth.owners * width + truth.indices, rows * width + items)
    hits = np.bincount(truth.owners[hit], minlength=len(truth))
    recall = np.rint(hits[counted] / truth.lengths[counted] * _GRID).sum() / _GRID
    lengths = np.bincount(rows, minlength=len(truth))[counted].sum()
    users = int(counted.sum())
    return [
        (CANDIDATES, slice_name, "recall", 0, 0, float(recall), users),
        (CANDIDATES, slice_name, CANDIDATES, 0, 0, float(lengths), users),
    ]
