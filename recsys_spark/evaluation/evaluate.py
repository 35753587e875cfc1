"""Stage ``evaluate``: every model's full ranking against what users did in the test window.

The ranker's log loss and AUC are over the candidates, or over the test part's labels where the log gives some.

Two slices of the lists. ``all``: every item may be recommended and every item of the window counts. ``new``: items that
the user had before the cut are taken out of the lists and of the truth. The published ranker has one list; ``new`` is
that list without the user's own items.

Diversity, long tail and the least score are judged as published; what ``item_rules`` says is of one day, and no part of
it. Where diversity or long tail is on, ``ranker_plain`` is the ranker's order without: what they cost, and what they do
to coverage, to the distance within lists and to the Gini index of how often items are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import TEST, Cut, cut
from recsys_spark.errors import RecsysError
from recsys_spark.evaluation import baselines
from recsys_spark.evaluation.by_source import candidate_figures, source_figures
from recsys_spark.evaluation.item_knn import fit_item_knn, is_sampled, load_item_knn
from recsys_spark.evaluation.labelled import labelled_parts
from recsys_spark.evaluation.metrics import AucHistogram, exposure, intra_list_distance_sums
from recsys_spark.evaluation.parts import ALL, EXPOSURE, NEW, PARTS, Part, as_batch, ranker_figures, ranking_figures
from recsys_spark.gini import gini
from recsys_spark.ragged import Rows
from recsys_spark.scoring.candidates import USERS_AT_ONCE
from recsys_spark.scoring.lists import PERSONAL, POPULAR
from recsys_spark.scoring.places import listed
from recsys_spark.scoring.rank import Recipe, rank_block, rank_catalogue, recipe
from recsys_spark.scoring.select import Selection, may_have
from recsys_spark.scoring.sources.state import SOURCE_TABLES
from recsys_spark.scoring.state import ItemState, load_state
from recsys_spark.scoring.top_k import top_k_of_scores
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import TABLES, Manifest
from recsys_spark.tables.histories import UserBlock, by_bucket, is_in, user_blocks
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

IntArray = NDArray[np.int32]
USERS_OF_SCORES = 64  # dense score rows held at once: 64 x items x 4 bytes


@dataclass(frozen=True)
class Plan:
    """What a worker needs to evaluate the users of a bucket.

    Parameters
    ----------
    how : Recipe
        The ranker, at the test cut.
    rankers : dict of str to Selection
        How the ranker's lists are chosen, for each of its rows.
    item_knn : str
        Similarity file (.npz), relative to the root.
    ks : tuple of int
    half_life_days : float
        Of the row ``repeat_decayed``.
    share : float
        Share of the users that is evaluated.
    labelled : bool
        The log gives labels, so that the ranker is measured on those and not on candidates.
    by_source : bool
        Each source has figures of its own.
    """

    how: Recipe
    rankers: dict[str, Selection]
    item_knn: str
    ks: tuple[int, ...]
    half_life_days: float
    share: float
    labelled: bool
    by_source: bool


def evaluate(work: Work) -> list[Manifest]:
    """Write ``metrics``.

    Raises
    ------
    RecsysError
        No user did anything in the test window.
    """
    store, settings = work.store, work.settings
    at = cut(work.dt, settings.split, TEST)
    share = min(1.0, settings.evaluate.max_users / max(1, work.inputs["histories"].rows))
    item_knn = f"_jobs/evaluate-{work.stamp.run_id}/item_knn.npz"
    store.storage.write_bytes(item_knn, fit_item_knn(work, at, share))
    ks = tuple(sorted(settings.evaluate.ks))
    labelled = work.inputs["ranker_examples"].extra.get("labels") == c.GIVEN
    how = recipe(work, at)
    by_source = bool(settings.candidates.sources or settings.cold.chain or settings.cold.items)
    plan = Plan(
        how, _rankers(how.selection), item_knn, ks, settings.evaluate.half_life_days, share, labelled, by_source
    )
    histories = by_bucket(store.read(work.spark, work.inputs["histories"]), settings.buckets)
    parts = histories.mapInArrow(partial(_parts, plan=plan), PARTS)
    if labelled and work.inputs["ranker_examples"].extra["rows_of_split"][TEST]:
        parts = parts.unionByName(labelled_parts(work, plan.how))
    rows = _metrics(parts, plan, at)
    store.storage.delete_folder(f"_jobs/evaluate-{work.stamp.run_id}")
    if not rows:
        raise RecsysError("no user has an event in the test window", "settings 'split'", "Widen split.test_days.")
    table = small_frame(work.spark, rows, TABLES["metrics"].schema).coalesce(1)
    return [store.write(table, "metrics", work.stamp, len(rows))]


def _rankers(selection: Selection) -> dict[str, Selection]:
    """The ranker as published, but for the rules of the day; and by score alone, where that is another order."""
    published = selection.of_models
    if published.in_model_order == published:
        return {"ranker": published}
    return {"ranker": published, "ranker_plain": published.in_model_order}


def _parts(batches: Iterator[pa.RecordBatch], plan: Plan) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: sums and counts of a bucket's users."""
    at = plan.how.ref.cut
    for block in user_blocks(batches, USERS_AT_ONCE):
        known, after = block.before(at.time), block.between(at.time, at.until)
        parts: list[Part] = []
        found, logits, state = rank_block(known, plan.how)
        sampled = is_sampled(block, plan.share)
        truth = {ALL: after.distinct_items()}
        truth[NEW] = truth[ALL].without(known.distinct_items())
        truth = {name: _only(rows, sampled) for name, rows in truth.items()}
        active = (np.diff(truth[ALL].indptr) > 0)[found.rows]
        if not plan.labelled:
            parts += ranker_figures(logits[active], is_in(after, found.rows[active], found.items[active]))
        # the least score is one of what is published
        least = plan.how.selection if plan.how.by == "ranker" else replace(plan.how.selection, min_score=None)
        own_slice, filling = NEW if plan.how.hide_seen == "all" else ALL, plan.how.filling()
        for slice_name in (ALL, NEW):
            hidden = plan.how.hidden(known) if slice_name == ALL else known.distinct_items()
            for model, selection in plan.rankers.items():
                scored = found.rows, found.items, logits
                if plan.how.over == "catalogue":
                    judged = truth[slice_name].lengths > 0  # the others count nowhere
                    scored = rank_catalogue(known, plan.how, max(plan.ks), hidden, selection, judged)
                use = may_have(*scored, least, state, hidden)
                chosen = scored[0][use], scored[1][use], scored[2][use]
                lists, sources = listed(*chosen, known, state, max(plan.ks), hidden, selection, filling)
                parts += _list_figures(model, slice_name, lists, truth[slice_name], plan.ks, state)
                if plan.by_source and model == "ranker" and slice_name == own_slice:
                    names = (PERSONAL, *plan.how.chain, POPULAR)
                    parts += source_figures(lists, sources, names, truth[slice_name], plan.ks)
        if plan.by_source:
            parts += candidate_figures(found, truth, plan.ks)
        for start in range(0, len(block), USERS_OF_SCORES):
            stop = min(start + USERS_OF_SCORES, len(block))
            parts += _baseline_figures(known.slice(start, stop), truth, start, stop, state, plan)
        yield as_batch(parts)


def _baseline_figures(
    known: UserBlock, truth: dict[str, Rows], start: int, stop: int, state: ItemState, plan: Plan
) -> list[Part]:
    k, at = max(plan.ks), plan.how.ref.cut.time
    events = Rows(known.indptr, known.items)
    past = baselines.Histories(events, known.weights.astype(np.float64), known.times.astype(np.float64), at)
    fallback = baselines.popularity_fallback(state.events)
    matrix = baselines.user_item_matrix(events, len(state.events), logarithm=True)
    scores = {
        "popularity": lambda: baselines.popularity(state.users, len(known)),
        "recent_popularity": lambda: baselines.popularity(state.recent_users, len(known)),
        "repeat": lambda: baselines.own_frequency(past, fallback),
        "repeat_decayed": lambda: baselines.own_decayed(past, fallback, plan.half_life_days),
        "item_knn": lambda: baselines.item_knn_scores(matrix, load_item_knn(plan.how.ref, plan.item_knn), fallback),
    }
    forbidden = {ALL: None, NEW: known.distinct_items()}
    parts: list[Part] = []
    for name, make in scores.items():
        rows = make()
        for slice_name, seen in forbidden.items():
            lists, _ = top_k_of_scores(rows, k, seen, state.allowed)
            parts += _list_figures(name, slice_name, lists, truth[slice_name].part(start, stop), plan.ks, state)
    vectors = state.vectors_of(known.users)
    for slice_name, seen in forbidden.items():
        lists, _ = state.catalogue.top_k(vectors, k, forbidden=seen)
        parts += _list_figures("retrieval", slice_name, lists, truth[slice_name].part(start, stop), plan.ks, state)
    return parts


def _list_figures(
    model: str, slice_name: str, lists: IntArray, truth: Rows, ks: tuple[int, ...], state: ItemState
) -> list[Part]:
    parts = ranking_figures(model, slice_name, lists, truth, ks)
    some = lists[np.diff(truth.indptr) > 0]
    for k, (total, users) in intra_list_distance_sums(some, state.vectors[:, :-1], ks).items():
        parts.append((model, slice_name, "intra_list_distance", k, 0, total, users))
    for k in ks:
        items, counts = exposure(some, k)
        shown = zip(items.tolist(), counts.tolist(), strict=True)
        parts += [(model, slice_name, EXPOSURE, k, item, float(count), 0) for item, count in shown]
    return parts


def _only(rows: Rows, keep: NDArray[np.bool_]) -> Rows:
    """Empty the rows of users who are not evaluated."""
    mask = keep[rows.owners]
    return Rows.from_pairs(rows.owners[mask], rows.indices[mask], len(rows))


def _metrics(parts: DataFrame, plan: Plan, at: Cut) -> list[tuple[str, str, str, str, int, float, int]]:
    """Add the workers' parts up: sums over counts, distinct items over the catalogue, AUC of the joint histogram."""
    from pyspark.sql import functions as F

    parts = parts.persist()
    counted = ("positives", "negatives")
    plain = parts.where(~F.col("metric").isin(EXPOSURE, *counted)).groupBy("model", "slice", "metric", "k")
    rows = []
    for r in plain.agg(F.sum("value").alias("value"), F.sum("users").alias("users")).collect():
        if r["users"]:
            rows.append((r["model"], at.name, r["slice"], r["metric"], r["k"], r["value"] / r["users"], r["users"]))
    catalogue = int(load_state(plan.how.ref).allowed.sum())
    shown = (
        parts.where(F.col("metric") == EXPOSURE).groupBy("model", "slice", "k", "key").agg(F.sum("value").alias("n"))
    )
    alike = shown.groupBy("model", "slice", "k", "n").count().collect()  # items that are in as many lists as each other
    for key in sorted({(r["model"], r["slice"], r["k"]) for r in alike}):
        mine = [r for r in alike if (r["model"], r["slice"], r["k"]) == key]
        lists, items = ([int(r[name]) for r in mine] for name in ("n", "count"))
        of_key = {"coverage": sum(items) / max(catalogue, 1), "gini": gini(lists, items, catalogue)}
        rows += [(key[0], at.name, key[1], name, key[2], value, catalogue) for name, value in of_key.items()]
    bins = parts.where(F.col("metric").isin(*counted)).groupBy("metric", "key").agg(F.sum("value").alias("n")).collect()
    histogram = AucHistogram.of()
    for r in bins:
        getattr(histogram, r["metric"])[r["key"]] += int(r["n"])
    if histogram.positives.any() and histogram.negatives.any():
        pairs = int(histogram.positives.sum() + histogram.negatives.sum())
        rows.append(("ranker", at.name, ALL, "auc", 0, histogram.auc(), pairs))
    parts.unpersist()
    return sorted(rows)


STAGE = Stage(
    name="evaluate",
    does="every model's full ranking against the test window",
    run=evaluate,
    sections=(
        "split",
        "features",
        "candidates",
        "cold",
        "rules.hide_seen",
        "rules.hide_days",
        "rules.min_score",
        "diversity",
        "score",
        "evaluate",
    ),
    inputs=(
        "histories",
        "item_stats",
        "item_windows",
        "item_features",
        "user_features",
        "item_ids",
        "retrieval_model",
        *SOURCE_TABLES,
        "ranker_examples",
        "ranker",
    ),
    outputs=("metrics",),
)
