"""Stage ``featurize``: ids, encoded attributes, item statistics, histories, retrieval examples and labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.cuts import Cut, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.features import crunch, events, ids
from recsys_spark.features.attributes import write_features
from recsys_spark.features.examples import write_examples
from recsys_spark.features.histories import write_histories
from recsys_spark.features.id_tables import FORGOTTEN, to_index, write_ids
from recsys_spark.features.item_stats import range_bounds, write_item_stats
from recsys_spark.features.item_windows import item_windows
from recsys_spark.features.labels import write_labels
from recsys_spark.features.split import TRAIN, Windows, check_column, window_column
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import Manifest
from recsys_spark.tables.layout import index_size
from recsys_spark.tables.tasks import files_by_partition, run_tasks

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def featurize(work: Work) -> list[Manifest]:
    """Write the id tables, features, item_stats, histories, examples and labels.

    Raises
    ------
    RecsysError
        The root has another number of buckets, no event is older than the first cut, or another run has given out ids
        meanwhile.
    """
    settled = ids.fix_buckets(work.store, work.settings.buckets)
    if settled is not None:
        raise RecsysError(
            f"{work.settings.buckets} buckets, but this root was begun with {settled}",
            "setting 'buckets'",
            f"Set it to {settled}, or use another root.",
        )
    scratch = f"_jobs/{work.stamp.stage}-{work.stamp.run_id}"
    work.store.storage.delete_folder(scratch)
    try:
        return _featurize(work, scratch)
    finally:
        work.store.storage.delete_folder(scratch)


def _featurize(work: Work, scratch: str) -> list[Manifest]:
    spark, store, settings = work.spark, work.store, work.settings
    interactions = store.read(spark, work.inputs["interactions"])
    items, users = (store.read(spark, work.inputs[name]) for name in ("items", "users"))
    counts = {
        name: events.count_events(interactions, name, store.storage.url(f"{scratch}/counted/{name}"))
        for name in (c.USER_ID, c.ITEM_ID)
    }
    all_cuts = cuts(work.dt, settings.split)
    windows = _windows(counts[c.USER_ID], all_cuts, work)
    floors = settings.features.min_item_events, settings.features.min_user_events
    item_ids = write_ids(work, to_index(counts[c.ITEM_ID], items, c.ITEM_ID, floors[0]), "item_ids")
    user_ids = write_ids(work, to_index(counts[c.USER_ID], users, c.USER_ID, floors[1]), "user_ids")
    user_index, item_index = store.read(spark, user_ids), store.read(spark, item_ids)

    slots = _write_events(work, scratch, counts, (user_index, item_index), item_ids.rows, windows)
    plan = _plan(work, scratch, slots, windows, all_cuts, index_size(item_ids))
    rows_of = _crunch(work, plan, slots)
    stats = write_item_stats(work, f"{scratch}/counts", all_cuts, plan.item_bounds)
    seen_users = spark.read.parquet(store.storage.url(f"{scratch}/seen"))
    at_first = store.read(spark, stats).where(f"{c.CUT} = '{all_cuts[0].name}'")
    seen_items = at_first.withColumnRenamed(c.ITEM_INDEX, c.INDEX).select(c.INDEX)
    vocabularies, *features = write_features(work, (users, user_index, seen_users), (items, item_index, seen_items))
    written = [user_ids, item_ids, stats, vocabularies, *features]
    written.append(_write_windows(work, f"{scratch}/placed", all_cuts))
    written.append(write_histories(work, scratch, user_index, slots.groups, slots.buckets_of_group, all_cuts))
    written.append(write_examples(work, f"{scratch}/pairs", rows_of))
    written.append(write_labels(work, user_index, item_index, windows))
    for manifest in (user_ids, item_ids, vocabularies):
        ids.check_head(store, manifest)
    return written


def _windows(counts: DataFrame, all_cuts: list[Cut], work: Work) -> Windows:
    from pyspark.sql import functions as F

    oldest, first = counts.agg(F.min(events.OLDEST).alias("t")).collect()[0]["t"], all_cuts[0].time
    if work.settings.split.kind == "time" and oldest >= first:
        raise RecsysError(
            f"the log begins {(oldest - first) // c.SECONDS_PER_DAY} days after the first cut, "
            "so there is nothing to train on",
            "settings 'split'",
            "Give a longer log, or shorten split.valid_days, split.test_days or split.ranker_windows.",
        )
    return Windows.of(work.settings.split.kind, oldest, all_cuts)


def _write_events(
    work: Work,
    scratch: str,
    counts: dict[str, DataFrame],
    indexes: tuple[DataFrame, DataFrame],
    item_rows: int,
    windows: Windows,
) -> events.Slots:
    """Write the events of each slot; see ``events``."""
    store, settings = work.store, work.settings
    interactions = store.read(work.spark, work.inputs["interactions"])
    if settings.split.kind == "column":
        check_column(interactions)
    heavy = events.heaviest(counts[c.USER_ID], c.USER_ID, events.heavy_rows())
    slots = events.Slots.of(work.inputs["interactions"].rows, settings.buckets, heavy)
    many = None
    if item_rows > events.BROADCAST_ITEMS:
        many = [name for name, _ in events.heaviest(counts[c.ITEM_ID], c.ITEM_ID, events.heavy_rows())]
    bucket = ids.bucket_of(c.USER_ID, settings.buckets)
    window = window_column(settings.split, windows)
    url = store.storage.url(f"{scratch}/events")
    events.write_events(interactions, *indexes, many, slots, bucket, window, url)
    return slots


def _plan(
    work: Work, scratch: str, slots: events.Slots, windows: Windows, all_cuts: list[Cut], items: int
) -> crunch.Plan:
    storage, features = work.store.storage, work.settings.features
    values: dict[str, Any] = {
        "root": storage.uri,
        "scratch": scratch,
        "sources": files_by_partition(storage, f"{scratch}/events"),
        "windows": windows,
        "all_cuts": tuple(all_cuts),
        "recent": features.recent_days * c.SECONDS_PER_DAY,
        "length": features.history_length,
        "item_bounds": range_bounds(items),
        "buckets_of_group": slots.buckets_of_group,
        "shared": slots.shared,
        "heavy": tuple((each.first, each.slots) for each in slots.heavy),
        "placed": bool(features.windows),
    }
    plan = crunch.Plan(**values, tails={})
    if windows.kind != "leave_last_out" or not slots.heavy:
        return plan
    newest = partial(crunch.newest, plan=plan)
    found = run_tasks(work.spark, slots.count - slots.shared, newest, "newest events of heavy users")
    return crunch.Plan(**values, tails=crunch.tails(found, plan))


def _crunch(work: Work, plan: crunch.Plan, slots: events.Slots) -> dict[str, int]:
    """Do the slots' tasks; returns the pairs of each split."""
    crunched = partial(crunch.crunch, plan=plan)
    said = run_tasks(work.spark, slots.count, crunched, "histories, pairs and counts of each slot")
    merged = partial(crunch.merge, plan=plan)
    said += run_tasks(work.spark, len(plan.merges), merged, "pairs and counts of heavy users")
    sums = {name: sum(row["rows"] for row in said if row["split"] == name) for name in ("", *plan.windows.names)}
    features, found, meant = work.settings.features, sums.pop(""), work.inputs["interactions"].rows
    forgotten = FORGOTTEN in work.inputs and work.inputs[FORGOTTEN].rows
    every_id = not (forgotten or features.min_user_events or features.min_item_events)
    if found > meant or (every_id and found < meant):
        raise RecsysError(
            f"{found:,} of {meant:,} events have an index",
            "table 'interactions'",
            "A fault of the code: each event must be found once. Nothing was published.",
        )
    if not sums[TRAIN]:
        raise RecsysError(
            "no event is in the training part, so there is nothing to train on",
            "settings 'split'",
            "Give more events, or smaller shares of the other parts; features.min_user_events may be too high.",
        )
    return sums


def _write_windows(work: Work, placed: str, all_cuts: list[Cut]) -> Manifest:
    store, windows = work.store, work.settings.features.windows
    if windows:
        log = work.spark.read.parquet(store.storage.url(placed))
    else:
        log = store.read(work.spark, work.inputs["interactions"])  # of which nothing is read
    return store.write(item_windows(log, all_cuts, windows), "item_windows", work.stamp)


STAGE = Stage(
    name="featurize",
    does="ids, features, histories and training examples",
    run=featurize,
    sections=("split", "features", "labels"),
    inputs=("interactions", "items", "users", FORGOTTEN),
    outputs=(
        "user_ids",
        "item_ids",
        "user_features",
        "item_features",
        "vocabularies",
        "feature_spec",
        "item_stats",
        "item_windows",
        "histories",
        "examples",
        "labels",
    ),
)
