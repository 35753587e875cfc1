"""Stage ``publish``: check the lists, then let readers see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.score import STAGE as SCORE
from recsys_spark.stage import Stage, Work, finished
from recsys_spark.tables import Manifest

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def publish(work: Work) -> list[Manifest]:
    """Check the whole table that ``score`` wrote; return it, so that readers are pointed at it.

    Each user has ranks 1 … n, n the smaller of ``score.n`` and what is left for that user; items are distinct, known
    and, where repeats are hidden, unseen; scores are finite and do not rise along a list; every known user is there.

    Raises
    ------
    RecsysError
        A check fails, or users are missing against the table published before. Readers keep the old table.
    """
    store, settings = work.store, work.settings
    scored = finished(SCORE, work.spark, settings, work.dt)
    if not scored:
        raise RecsysError(
            f"no lists of these settings and tables for {work.dt}",
            store.storage.url("top_n"),
            "Run the stage score first.",
        )
    manifest = scored["top_n"]
    lists = store.read(work.spark, manifest).persist()
    known = store.read(work.spark, work.inputs["user_ids"]).count()
    problems = {**_shape_problems(lists, settings.score.n, known), **_item_problems(work, lists)}
    broken = {name: count for name, count in problems.items() if count}
    if broken:
        told = ", ".join(f"{name}: {count:,}" for name, count in broken.items())
        raise RecsysError(
            f"the lists break their promises ({told})",
            store.storage.url(manifest.folder),
            "Readers keep the table published before; look into the stage score.",
        )
    _check_users(work, manifest, known)
    return [manifest]


def _shape_problems(lists: DataFrame, n: int, known_users: int) -> dict[str, int]:
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    before = F.lag(c.SCORE).over(Window.partitionBy(c.USER_ID).orderBy(c.RANK))
    rows = lists.withColumn("rises", F.coalesce((F.col(c.SCORE) > before).cast("int"), F.lit(0)))
    finite = ~F.isnan(c.SCORE) & (F.abs(c.SCORE) < F.lit(float("inf")))
    per_user = rows.groupBy(c.USER_ID).agg(
        F.count(F.lit(1)).alias("rows"),
        F.max(c.RANK).alias("last"),
        F.min(c.RANK).alias("first"),
        F.countDistinct(c.RANK).alias("ranks"),
        F.countDistinct(c.ITEM_ID).alias("items"),
        F.sum("rises").alias("rises"),
        F.sum((~F.coalesce(finite, F.lit(False))).cast("int")).alias("not_finite"),
    )
    gaps = (F.col("ranks") != F.col("rows")) | (F.col("first") != 1) | (F.col("last") != F.col("rows"))

    def users(condition: Column) -> Column:
        return F.coalesce(F.sum(condition.cast("int")), F.lit(0))

    found = per_user.agg(
        F.count(F.lit(1)).alias("users"),
        users(gaps).alias("users with gaps in ranks"),
        users(F.col("rows") > n).alias("users with too many rows"),
        users(F.col("items") != F.col("rows")).alias("users with an item twice"),
        users(F.col("rises") > 0).alias("users with rising scores"),
        users(F.col("not_finite") > 0).alias("users with scores that are no numbers"),
    ).collect()[0]
    problems = {name: int(value) for name, value in found.asDict().items() if name != "users"}
    problems["known users without a list"] = abs(known_users - int(found["users"]))
    return problems


def _item_problems(work: Work, lists: DataFrame) -> dict[str, int]:
    """Items outside the catalogue, seen items where they are hidden, and lists shorter than they could be."""
    from pyspark.sql import functions as F

    store, settings = work.store, work.settings
    interactions = store.read(work.spark, work.inputs["interactions"])
    known = store.read(work.spark, work.inputs["item_ids"]).select(c.ITEM_ID)  # a floor may leave items without an id
    interactions = interactions.join(known, on=c.ITEM_ID, how="left_semi")
    catalogue = known if settings.cold.new_items else interactions.select(c.ITEM_ID).distinct()
    seen = interactions.select(c.USER_ID, c.ITEM_ID).distinct()
    problems = {"items outside the catalogue": lists.join(catalogue, on=c.ITEM_ID, how="left_anti").count()}
    lengths = lists.groupBy(c.USER_ID).agg(F.count(F.lit(1)).alias("rows"))
    possible = F.lit(catalogue.count())
    if not settings.score.repeats:
        again = lists.join(seen, on=[c.USER_ID, c.ITEM_ID], how="left_semi").count()
        problems["items that the user already has"] = again
        owned = seen.groupBy(c.USER_ID).agg(F.count(F.lit(1)).alias("owned"))
        lengths = lengths.join(owned, on=c.USER_ID, how="left")
        possible = possible - F.coalesce("owned", F.lit(0))
    short = lengths.where(F.col("rows") < F.least(F.lit(settings.score.n), possible))
    problems["users with too short a list"] = short.count()
    return problems


def _check_users(work: Work, manifest: Manifest, users: int) -> None:
    """Refuse a table that lost many users against the newest published one before it."""
    share = work.settings.publish.min_users_share
    earlier = work.store.latest("top_n", work.dt)
    if earlier is None or earlier.run_id == manifest.run_id:
        return
    before = work.store.read(work.spark, earlier).select(c.USER_ID).distinct().count()
    if users < share * before:
        raise RecsysError(
            f"{users:,} users, but the table of {earlier.dt} has {before:,}",
            work.store.storage.url(manifest.folder),
            f"Check the night's input, or lower publish.min_users_share (now {share}).",
        )


STAGE = Stage(
    name="publish",
    does="check the lists, then let readers see them",
    run=publish,
    sections=("score", "cold", "publish"),
    inputs=("interactions", "user_ids", "item_ids"),
    outputs=("top_n",),
    always=True,
)
