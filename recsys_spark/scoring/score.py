"""Stage ``score``: lists for every user, by Spark over user buckets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys_spark import columns as c
from recsys_spark.cuts import FINAL, Cut, cut
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.candidates import USERS_AT_ONCE, Candidates, build_candidates
from recsys_spark.scoring.ranker import RankerModel, load_ranker
from recsys_spark.scoring.state import ItemState, StateRef, load_state, state_ref
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.histories import UserBlock, by_bucket, user_blocks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PERSONAL, POPULAR = "personal", "popular"
_LISTS = "user_index int, rank int, item_index int, score float, source string, reason string"


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to rank the users of a bucket; small, and sent to the workers.

    Parameters
    ----------
    ref : StateRef
    ranker : str
        Run folder.
    retrieved, own : int
        Candidates of a user; own is 0 where repeats are hidden.
    recent_days : int
    threads : int
        Torch threads of a worker process.
    """

    ref: StateRef
    ranker: str
    retrieved: int
    own: int
    recent_days: int
    threads: int

    @property
    def repeats(self) -> bool:
        """Lists may hold items that the user already has."""
        return self.own > 0


def recipe(work: Work, at: Cut) -> Recipe:
    """Recipe of a stage's inputs at a cut."""
    settings = work.settings
    return Recipe(
        ref=state_ref(work.store.storage.uri, work.inputs, at, settings.features.group),
        ranker=work.inputs["ranker"].folder,
        retrieved=settings.candidates.retrieved,
        own=settings.candidates.own if settings.score.repeats else 0,
        recent_days=settings.features.recent_days,
        threads=settings.launch.threads,
    )


def rank_block(known: UserBlock, how: Recipe) -> tuple[Candidates, NDArray[np.float32], ItemState]:
    """Candidates of a block with their logits.

    Parameters
    ----------
    known : UserBlock
        Events before the recipe's cut.
    how : Recipe

    Returns
    -------
    candidates : Candidates
    logits : float32 [C]
    state : ItemState
    """
    state = load_state(how.ref)
    model: RankerModel = load_ranker(how.ref, how.ranker, how.threads)
    found = build_candidates(known, state, how.ref.cut.time, how.retrieved, how.own, how.recent_days)
    return found, model.logits(known.users[found.rows], found.items, found.numbers), state


def score(work: Work) -> list[Manifest]:
    """Write ``top_n`` for every known user; readers see it after ``publish``.

    Raises
    ------
    RecsysError
        The ranker was trained on another retrieval model than the one at hand.
    """
    from pyspark.sql import functions as F

    spark, store, settings = work.spark, work.store, work.settings
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
        taken = set(items[best].tolist())
        if not how.repeats:
            taken |= set(known.slice(user, user + 1).items.tolist())
        for item in state.popular:
            if len(rows) == n:
                break
            if int(item) not in taken:
                reason = f"popular:{state.recent_events[item]}"
                rows.append((index, len(rows) + 1, int(item), -float(len(rows) + 1) / n, POPULAR, reason))
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
        "item_features",
        "user_features",
        "user_ids",
        "item_ids",
        "retrieval_model",
        "ranker",
    ),
    outputs=("top_n",),
    points=False,
)
