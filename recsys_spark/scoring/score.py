"""Stage ``score``: lists for every user, by Spark over user buckets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import FINAL, cut
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.candidates import USERS_AT_ONCE, Candidates
from recsys_spark.scoring.rank import Recipe, popular_fill, rank_block, recipe
from recsys_spark.scoring.state import ItemState
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.histories import UserBlock, by_bucket, user_blocks
from recsys_spark.tables.versions import check_versions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PERSONAL, POPULAR = "personal", "popular"
_LISTS = "user_index int, rank int, item_index int, score float, source string, reason string"


def score(work: Work) -> list[Manifest]:
    """Write ``top_n`` for every known user; readers see it after ``publish``.

    Raises
    ------
    RecsysError
        A model was trained on other tables of ids or features than those at hand, or the ranker on another retrieval
        model; both versions are named.
    """
    from pyspark.sql import functions as F

    spark, store, settings = work.spark, work.store, work.settings
    for model in ("retrieval_model", "ranker"):
        check_versions(work.inputs[model], work.inputs)
    trained_on = store.storage.read_json(f"{work.inputs['ranker'].folder}/spec.json")["retrieval_version"]
    version = work.inputs["retrieval_model"].content_hash
    if trained_on != version:
        raise RecsysError(
            f"the ranker was trained on retrieval version {trained_on}, the current one is {version}",
            "tables 'ranker' and 'retrieval_model'",
            "Run train-ranker again.",
        )
    how = recipe(work, cut(work.dt, settings.split, FINAL))
    histories = by_bucket(store.read(spark, work.inputs["histories"]), settings.buckets)
    lists = histories.mapInArrow(partial(_list_batches, how=how, n=settings.score.n), _LISTS)
    named = _with_ids(work, lists).select(
        c.USER_ID,
        c.RANK,
        c.ITEM_ID,
        c.SCORE,
        c.SOURCE,
        c.REASON,
        F.lit(version).alias("retrieval_version"),
        F.lit(work.inputs["ranker"].content_hash).alias("ranker_version"),
    )
    sorted_rows = named.repartition(settings.spark.shuffle_partitions, c.USER_ID)
    manifest = store.write(sorted_rows.sortWithinPartitions(c.USER_ID, c.RANK), "top_n", work.stamp)
    return [manifest]


def _with_ids(work: Work, lists: DataFrame) -> DataFrame:
    users = work.store.read(work.spark, work.inputs["user_ids"]).withColumnRenamed(c.INDEX, c.USER_INDEX)
    items = work.store.read(work.spark, work.inputs["item_ids"]).withColumnRenamed(c.INDEX, c.ITEM_INDEX)
    return lists.join(users, on=c.USER_INDEX, how="inner").join(items, on=c.ITEM_INDEX, how="inner")


def _list_batches(batches: Iterator[pa.RecordBatch], how: Recipe, n: int) -> Iterator[pa.RecordBatch]:
    """Runs on the executors: a bucket of histories to rows of lists."""
    now = how.ref.cut.time
    for block in user_blocks(batches, USERS_AT_ONCE):
        known = block.before(now)
        found, logits, state = rank_block(known, how)
        rows = [row for user in range(len(known)) for row in _user_list(user, known, found, logits, state, how, n)]
        columns: list[Any] = list(zip(*rows, strict=True)) if rows else [[]] * 6
        types = [pa.int32(), pa.int32(), pa.int32(), pa.float32(), pa.string(), pa.string()]
        names = [c.USER_INDEX, c.RANK, c.ITEM_INDEX, c.SCORE, c.SOURCE, c.REASON]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, names)


def _user_list(
    user: int,
    known: UserBlock,
    found: Candidates,
    logits: NDArray[np.float32],
    state: ItemState,
    how: Recipe,
    n: int,
) -> list[tuple[int, int, int, float, str, str]]:
    """One user's rows: the ranker's best candidates, filled up with popular items.

    The score of a personal row is the probability that the user takes the item; popular rows have scores below 0, so
    that scores fall along the whole list.
    """
    start, stop = np.searchsorted(found.rows, [user, user + 1])
    items, mine = found.items[start:stop], logits[start:stop]
    best = np.lexsort((items, -mine))[:n]
    index = int(known.users[user])
    probability = 1.0 / (1.0 + np.exp(-mine[best].astype(np.float64)))
    reasons = _reasons(user, known, items[best], found.own[start:stop][best], how.ref.cut.time)
    rows = [
        (index, rank, int(item), float(p), PERSONAL, reason)
        for rank, (item, p, reason) in enumerate(zip(items[best], probability, reasons, strict=True), start=1)
    ]
    if len(rows) < n:
        for item in popular_fill(user, known, state, items[best].tolist(), n - len(rows), not how.repeats):
            reason = f"popular:{state.recent_events[item]}"
            rows.append((index, len(rows) + 1, item, -float(len(rows) + 1) / n, POPULAR, reason))
    return rows


def _reasons(user: int, known: UserBlock, items: NDArray[np.int64], own: NDArray[np.bool_], now: int) -> list[str]:
    """``own:<events>:<days since the last>`` for an item that the user had before, else ``taste``."""
    mine = known.slice(user, user + 1)
    reasons = []
    for item, is_own in zip(items, own, strict=True):
        if not is_own:
            reasons.append("taste")
            continue
        times = mine.times[mine.items == item]
        reasons.append(f"own:{len(times)}:{(now - int(times.max())) // c.SECONDS_PER_DAY}")
    return reasons


STAGE = Stage(
    name="score",
    does="top-N lists for every user",
    run=score,
    sections=("split", "features", "candidates", "score"),
    inputs=(
        "histories",
        "item_stats",
        "item_windows",
        "item_features",
        "user_features",
        "user_ids",
        "item_ids",
        "feature_spec",
        "retrieval_model",
        "ranker",
    ),
    outputs=("top_n",),
    points=False,
)
