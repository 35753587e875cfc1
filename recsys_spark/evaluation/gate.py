"""Stage ``gate``: whether tonight's model may replace the one that made the lists before.

Both are asked for the lists that they would publish at the cut before the test window, for the same users, on tonight's
histories and statistics: the champion with the snapshot that it made for its own test cut, which knows nothing of
tonight's test window. Ids are append-only, so that its vectors are still those of the same users and items; ids that
came after it are unknown to it, as they would be if it were published.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import TEST, cut
from recsys_spark.errors import RecsysError
from recsys_spark.evaluation import baselines
from recsys_spark.evaluation.champion import usable_champion
from recsys_spark.evaluation.decision import CHAMPION, HOLD, OK, TONIGHT, Duel, UserFigures, duels, outcome_of
from recsys_spark.evaluation.item_knn import fit_item_knn, is_sampled, load_item_knn
from recsys_spark.evaluation.per_user import keep_items, ndcg_of_users, tail_items
from recsys_spark.progress import say
from recsys_spark.ragged import Rows
from recsys_spark.scoring.candidates import USERS_AT_ONCE
from recsys_spark.scoring.chosen import block_lists
from recsys_spark.scoring.rank import Recipe, for_ids, recipe
from recsys_spark.scoring.sources.state import SOURCE_TABLES
from recsys_spark.scoring.state import load_state
from recsys_spark.scoring.top_k import top_k_of_scores
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import TABLES, Manifest, TableStore
from recsys_spark.tables.arrays import load_array, read_parquet
from recsys_spark.tables.champion import MODELS, champion_before, named
from recsys_spark.tables.histories import UserBlock, by_bucket, user_blocks
from recsys_spark.tables.layout import small_frame

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FIGURES = TABLES["user_metrics"].schema
_RULES = ("popularity", "repeat", "item_knn")
_AT_ONCE = 64  # users whose dense scores are held


@dataclass(frozen=True)
class Trial:
    """What a worker needs to rank the evaluated users by one model; small, and sent to the workers."""

    model: str
    how: Recipe
    k: int
    share: float
    head_share: float
    item_knn: str = ""


def gate(work: Work) -> list[Manifest]:
    """Write ``user_metrics`` and ``gate``; the latter's manifest says the outcome, and which models to use instead."""
    store, settings = work.store, work.settings
    champion, reason = usable_champion(work)
    broken, table_of = not_finite(store, work.inputs)
    found: list[Duel] = []
    rows: list[tuple[Any, ...]] = []
    if broken:
        level, says = (HOLD, f"hold: {broken}")
        if champion is None:
            bad = work.inputs[table_of]
            raise RecsysError(
                broken,
                store.storage.url(bad.folder),
                f"There is no champion to rank in its place ({reason}). Run {bad.stage} with --force, then the night.",
            )
        instead = champion["ranker"]  # named, so that lists by another champion are other lists
        told = f"{broken}; in its place ranks the model of {instead.dt}, run {instead.run_id}"
        found = [Duel(CHAMPION, "all", 0, 0.0, 0.0, 0.0, 0.0, HOLD, told)]
    else:
        rows = _rank_all(work, champion)
        found = duels(_figures(work, rows), settings.gate) if rows else []
        level, says = outcome_of(found) if found else (OK, "nobody took anything new in the test window: no comparison")
    if reason:
        says = f"{says}; {reason}"
    say(f"gate: {says}")
    facts: dict[str, Any] = {"outcome": level, "says": says}
    if champion is not None:
        facts["champion"] = named(champion)
        facts |= {"instead": facts["champion"]} if level == HOLD else {}
        facts["models"] = facts["champion"]  # so that they are kept as long as this run
    table = [
        (d.rival, d.slice, settings.gate.k, d.users, d.value, d.rival_value, d.low, d.high, d.level, d.says)
        for d in found
    ]
    frames = {"user_metrics": (rows, FIGURES), "gate": (table, TABLES["gate"].schema)}
    return [
        store.write(small_frame(work.spark, lines, schema).coalesce(1), name, work.stamp, len(lines), facts)
        for name, (lines, schema) in frames.items()
    ]


def _rank_all(work: Work, champion: dict[str, Manifest] | None) -> list[tuple[Any, ...]]:
    """NDCG of every evaluated user by every model."""
    store, settings = work.store, work.settings
    at = cut(work.dt, settings.split, TEST)
    share = min(1.0, settings.gate.max_users / max(1, work.inputs["histories"].rows))
    scratch = f"_jobs/gate-{work.stamp.run_id}"
    item_knn = f"{scratch}/item_knn.npz"
    store.storage.write_bytes(item_knn, fit_item_knn(work, at, share))
    how = recipe(work, at)
    how = replace(how, selection=how.selection.of_models)  # what a model chooses; not what was pinned or is tried out
    trials = [Trial(TONIGHT, how, settings.gate.k, share, settings.gate.head_share, item_knn)]
    if champion is not None:
        theirs = replace(work, inputs={**work.inputs, **champion})
        by_theirs = replace(recipe(theirs, at), selection=how.selection)
        trials.append(replace(trials[0], model=CHAMPION, how=for_ids(by_theirs, work.inputs), item_knn=""))
    histories = by_bucket(store.read(work.spark, work.inputs["histories"]), settings.buckets).persist()
    rows: list[tuple[Any, ...]] = []
    for trial in trials:  # one after the other: a worker keeps the state of one model
        rows += [tuple(row) for row in histories.mapInArrow(partial(_trial, trial=trial), FIGURES).collect()]
    histories.unpersist()
    store.storage.delete_folder(scratch)
    return sorted(rows, key=lambda row: row[:2])


def _trial(batches: Iterator[pa.RecordBatch], trial: Trial) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: NDCG of a bucket's evaluated users."""
    at = trial.how.ref.cut
    for block in user_blocks(batches, USERS_AT_ONCE):
        known, after = block.before(at.time), block.between(at.time, at.until)
        truth = after.distinct_items().without(trial.how.hidden(known))
        sampled = is_sampled(block, trial.share)
        chosen = np.flatnonzero(sampled & (truth.lengths > 0))
        if not len(chosen):
            continue
        truth, some, known = truth.take(chosen), block.take(chosen), known.take(chosen)
        tail = keep_items(truth, tail_items(load_state(trial.how.ref).recent_events, trial.head_share))
        lists = {trial.model: block_lists(some, trial.how, trial.k).items}
        if trial.item_knn:
            lists |= _plain_lists(known, trial)
        for model, items in lists.items():
            ndcg, tail_ndcg = (ndcg_of_users(items, wanted, trial.k) for wanted in (truth, tail))
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array([model] * len(chosen), pa.string()),
                    pa.array(some.users, pa.int32()),
                    pa.array(np.diff(known.indptr).astype(np.int32)),
                    pa.array(np.full(len(chosen), trial.k, np.int32)),
                    pa.array(ndcg),
                    pa.array(tail_ndcg, from_pandas=True),
                ],
                [part.split()[0] for part in FIGURES.split(", ")],
            )


def _plain_lists(known: UserBlock, trial: Trial) -> dict[str, NDArray[np.int32]]:
    """Lists [U, k] of the plain rules for a block."""
    state = load_state(trial.how.ref)
    parts: dict[str, list[NDArray[np.int32]]] = {name: [] for name in _RULES}
    for start in range(0, len(known), _AT_ONCE):
        some = known.slice(start, min(start + _AT_ONCE, len(known)))
        events = Rows(some.indptr, some.items)
        past = baselines.Histories(
            events, some.weights.astype(np.float64), some.times.astype(np.float64), trial.how.ref.cut.time
        )
        fallback = baselines.popularity_fallback(state.events)
        matrix = baselines.user_item_matrix(events, len(state.events), logarithm=True)
        scores = (
            baselines.popularity(state.recent_users, len(some)),
            baselines.own_frequency(past, fallback),
            baselines.item_knn_scores(matrix, load_item_knn(trial.how.ref, trial.item_knn), fallback),
        )
        hidden = trial.how.hidden(some)
        for name, each in zip(_RULES, scores, strict=True):
            parts[name].append(top_k_of_scores(each, trial.k, hidden, state.allowed)[0])
    return {name: np.concatenate(each) for name, each in parts.items()}


def _figures(work: Work, rows: list[tuple[Any, ...]]) -> UserFigures:
    """Figures by model and user, users in the order of their index."""
    models, users, events, _, ndcg, tail = (np.array(column) for column in zip(*rows, strict=True))
    ours = models == TONIGHT
    of: dict[str, NDArray[Any]] = {
        name: models == name for name in (TONIGHT, CHAMPION, *_RULES) if (models == name).any()
    }
    ndcg, tail = ndcg.astype(np.float64), tail.astype(np.float64)
    groups = _groups(work, users[ours].astype(np.int64))
    by_model, by_tail = ({name: values[which] for name, which in of.items()} for values in (ndcg, tail))
    return UserFigures(by_model, by_tail, events[ours].astype(np.int64), groups)


def _groups(work: Work, users: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Slices by the values of the user features that the settings name."""
    names = work.settings.gate.groups
    if not names:
        return {}
    storage = work.store.storage
    features = read_parquet(storage, work.inputs["user_features"].folder).select([c.INDEX, *names]).to_pandas()
    codes = features.set_index(c.INDEX).reindex(users).fillna(0)
    values = read_parquet(storage, work.inputs["vocabularies"].folder, [("side", "=", "user")]).to_pylist()
    hashed = {each.name: each.hash_buckets for each in work.settings.features.user}
    of_codes = {name: codes[name].to_numpy() for name in names}
    return slices_of(of_codes, [row for row in values if row["feature"] in names], hashed, work.settings.gate.min_users)


def slices_of(
    codes: dict[str, NDArray[Any]], rows: list[dict[str, Any]], hashed: dict[str, int], least: int
) -> dict[str, NDArray[np.bool_]]:
    """Users of each value that enough of them have; the others would be judged by nothing, and may be thousands.

    Parameters
    ----------
    codes : dict of str to int [U]
        By feature.
    rows : list of dict
        Of ``vocabularies``; of a value that tonight does not know there is no code.
    hashed : dict of str to int
        Codes of each feature that come before those of its values.
    least : int
        Users.
    """
    found: dict[str, NDArray[np.bool_]] = {}
    often = {name: dict(zip(*np.unique(each, return_counts=True), strict=True)) for name, each in codes.items()}
    for row in sorted(rows, key=lambda row: (row["feature"], row["code"])):
        name, code = row["feature"], row["code"] + hashed[row["feature"]]
        if row["entities"] and often[name].get(code, 0) >= least:
            found[f"{name}={row['value']}"] = codes[name] == code
    return found


def not_finite(store: TableStore, inputs: dict[str, Manifest]) -> tuple[str, str]:
    """What of tonight's models is a number that is none, and the table that holds it; both empty where all are good."""
    from safetensors.numpy import load

    storage, folder = store.storage, inputs["retrieval_model"].folder
    for name, _ in storage.files(folder):
        if name.endswith(".npy"):
            values = load_array(storage, f"{folder}/{name}")
            if not all(np.isfinite(values[at : at + 65_536]).all() for at in range(0, len(values), 65_536)):
                return f"the retrieval model's {name} holds numbers that are not finite", "retrieval_model"
    weights = load(storage.read_bytes(f"{inputs['ranker'].folder}/model.safetensors"))
    for name, values in sorted(weights.items()):
        if values.dtype.kind != "f":
            continue
        # a bucket of numbers may well end at infinity
        bad = np.isnan(values) if name == "edges" else ~np.isfinite(values)
        if bad.any():
            return f"the ranker's weights '{name}' hold numbers that are not finite", "ranker"
    return "", ""


def _before(spark: SparkSession, settings: Any, dt: str) -> object:
    """Who the champion is."""
    models = champion_before(TableStore(settings.root), dt)
    return None if models is None else [models[table].content_hash for table in MODELS]


STAGE = Stage(
    name="gate",
    does="tonight's model against the champion's and plain rules",
    run=gate,
    sections=("split", "features", "candidates", "cold", "rules", "diversity", "score", "evaluate", "gate"),
    inputs=(
        "histories",
        "item_stats",
        "item_windows",
        "item_features",
        "user_features",
        "vocabularies",
        "user_ids",
        "item_ids",
        "retrieval_model",
        *SOURCE_TABLES,
        "ranker",
    ),
    outputs=("user_metrics", "gate"),
    sources=_before,
    enabled=lambda settings: settings.gate.enabled,
)
