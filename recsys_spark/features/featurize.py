"""Stage ``featurize``: ids, encoded attributes, item statistics, histories and retrieval examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.cuts import Cut, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.features import encode, ids
from recsys_spark.features.examples import write_examples
from recsys_spark.features.histories import write_histories
from recsys_spark.stage import Stage, Work
from recsys_spark.tables import TABLES, Manifest

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def featurize(work: Work) -> list[Manifest]:
    """Write the id tables, features, item_stats, histories and examples.

    Raises
    ------
    RecsysError
        The root has another number of buckets, or no event is older than the first cut.
    """
    spark, store, settings, stamp = work.spark, work.store, work.settings, work.stamp
    settled = ids.fix_buckets(store, settings.buckets)
    if settled is not None:
        raise RecsysError(
            f"{settings.buckets} buckets, but this root was begun with {settled}",
            "setting 'buckets'",
            f"Set it to {settled}, or use another root.",
        )
    interactions = store.read(spark, work.inputs["interactions"])
    items, users = (store.read(spark, work.inputs[name]) for name in ("items", "users"))
    item_ids = _write_ids(work, interactions.select(c.ITEM_ID).union(items.select(c.ITEM_ID)), "item_ids")
    user_ids = _write_ids(work, interactions.select(c.USER_ID).union(users.select(c.USER_ID)), "user_ids")
    user_index, item_index = store.read(spark, user_ids), store.read(spark, item_ids)
    events = _indexed(interactions, user_index, item_index).persist()
    all_cuts = cuts(work.dt, settings.split)
    _check_train(events, all_cuts[0])

    written = [user_ids, item_ids]
    spec: dict[str, object] = {}
    for side, frame, index in (("user", users, user_index), ("item", items, item_index)):
        manifest, spec[side] = _write_features(work, side, frame, index, events, all_cuts[0])
        written.append(manifest)
    store.storage.write_json(f"{store.folder('feature_spec', stamp)}/spec.json", spec)
    written.append(store.seal(None, "feature_spec", stamp))
    written.append(store.write(_item_stats(events, all_cuts, settings), "item_stats", stamp))
    written.append(write_histories(work, events, user_index))
    written.append(write_examples(work, events, all_cuts))
    return written


def _write_ids(work: Work, found: DataFrame, table: str) -> Manifest:
    name = f"{table.removesuffix('_ids')}_id"
    extended = ids.assign(found, ids.read_known(work.spark, work.store, table), name)
    columns = [c.INDEX, name]
    if name == c.USER_ID:
        extended = extended.withColumn(c.USER_BUCKET, ids.bucket_of(name, work.settings.buckets))
        columns.append(c.USER_BUCKET)
    return work.store.write(extended.select(columns), table, work.stamp)


def _indexed(interactions: DataFrame, user_index: DataFrame, item_index: DataFrame) -> DataFrame:
    """Events by index: user_bucket, user_index, item_index, time (seconds), weight."""
    from pyspark.sql import functions as F

    users = user_index.withColumnRenamed(c.INDEX, c.USER_INDEX)
    items = item_index.withColumnRenamed(c.INDEX, c.ITEM_INDEX)
    joined = interactions.join(users, on=c.USER_ID, how="inner").join(items, on=c.ITEM_ID, how="inner")
    seconds = F.unix_seconds(c.EVENT_TIME).alias(c.TIME)
    return joined.select(c.USER_BUCKET, c.USER_INDEX, c.ITEM_INDEX, seconds, c.WEIGHT)


def _check_train(events: DataFrame, first: Cut) -> None:
    from pyspark.sql import functions as F

    oldest = events.agg(F.min(c.TIME).alias("t")).collect()[0]["t"]
    if oldest >= first.time:
        days = -(-(first.time - oldest) // c.SECONDS_PER_DAY)
        raise RecsysError(
            f"the log begins {-days} days after the first cut, so there is nothing to train on",
            "settings 'split'",
            "Give a longer log, or shorten split.valid_days, split.test_days or split.ranker_windows.",
        )


def _write_features(
    work: Work, side: str, frame: DataFrame, index: DataFrame, events: DataFrame, first: Cut
) -> tuple[Manifest, dict[str, Any]]:
    """Codes of all users or items, fitted on those with an event before the first cut."""
    from pyspark.sql import functions as F

    features = work.settings.features.user if side == "user" else work.settings.features.item
    key = f"{side}_id"
    rows = index.select(c.INDEX, key).join(frame, on=key, how="left").persist()
    seen = events.where(F.col(c.TIME) < first.time).select(F.col(f"{side}_index").alias(c.INDEX)).distinct()
    state = encode.fit(rows.join(seen, on=c.INDEX, how="left_semi"), features)
    label = F.coalesce(F.col(c.LABEL_TEXT), F.col(key)).alias(c.LABEL_TEXT)
    encoded = encode.encode(rows, features, state).join(rows.select(c.INDEX, label), on=c.INDEX, how="inner")
    return work.store.write(encoded.orderBy(c.INDEX), f"{side}_features", work.stamp), state


def _item_stats(events: DataFrame, all_cuts: list[Cut], settings: Settings) -> DataFrame:
    """Counts of each item before each cut; all are whole numbers, so that no order of summing matters."""
    from functools import reduce

    from pyspark.sql import functions as F

    recent_seconds = settings.features.recent_days * c.SECONDS_PER_DAY

    def before(cut: Cut) -> DataFrame:
        def since(seconds: int) -> Column:
            return F.max((F.col(c.TIME) >= cut.time - seconds).cast("bigint"))

        day = F.col(c.TIME) / c.SECONDS_PER_DAY
        recent = F.col(c.TIME) >= cut.time - recent_seconds
        earlier = ~recent & (F.col(c.TIME) >= cut.time - 4 * recent_seconds)
        per_user = (
            events.where(F.col(c.TIME) < cut.time)
            .groupBy(c.ITEM_INDEX, c.USER_INDEX)
            .agg(
                F.count(F.lit(1)).alias("events"),
                F.sum(recent.cast("bigint")).alias("recent_events"),
                since(recent_seconds).alias("recent_users"),
                since(recent_seconds // 4).alias("newest_users"),
                F.max(earlier.cast("bigint")).alias("earlier_users"),
                (F.floor(F.max(day)) > F.floor(F.min(day))).cast("bigint").alias("repeat_users"),
                F.min(recent.cast("bigint")).alias("first_users"),
                F.min(c.TIME).alias("first_time"),
            )
        )
        summed = [name for name in per_user.columns if name not in (c.ITEM_INDEX, c.USER_INDEX, "first_time")]
        stats = per_user.groupBy(c.ITEM_INDEX).agg(
            F.count(F.lit(1)).alias("users"),
            *[F.sum(n).alias(n) for n in summed],
            F.min("first_time").alias("first_time"),
        )
        return stats.select(F.lit(cut.name).alias(c.CUT), *stats_columns)

    stats_columns = [part.split()[0] for part in TABLES["item_stats"].schema.split(", ")[1:]]
    union = reduce(lambda one, other: one.unionByName(other), [before(each) for each in all_cuts])
    return union.repartition(1).sortWithinPartitions(c.CUT, c.ITEM_INDEX)


STAGE = Stage(
    name="featurize",
    does="ids, features, histories and training examples",
    run=featurize,
    sections=("split", "features"),
    inputs=("interactions", "items", "users"),
    outputs=(
        "user_ids",
        "item_ids",
        "user_features",
        "item_features",
        "feature_spec",
        "item_stats",
        "histories",
        "examples",
    ),
)
