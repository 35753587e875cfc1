"""Stage ``publish``: check the lists, then let readers see them."""

from __future__ import annotations

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.promises import (
    Promised,
    arm_problems,
    item_problems,
    place_problems,
    shape_problems,
    without_choice,
)
from recsys_spark.scoring.score import STAGE as SCORE
from recsys_spark.stage import Stage, Work, finished
from recsys_spark.tables import Manifest


def publish(work: Work) -> list[Manifest]:
    """Check the whole table that ``score`` wrote; return it, so that readers are pointed at it.

    Each user has ranks 1 … n, n the smaller of ``score.n`` and what is left for that user; items are distinct, known,
    allowed by the rules and not among those hidden from the user; caps, pins and places for new items are kept; scores
    are finite and, where the models' order alone decides, do not rise along a list; every known user is there, and of
    a test, in the arm that his id says, with the lists of that arm's models.

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
    promised = _promised(work)
    served = known - without_choice(lists, promised)
    problems = shape_problems(lists, settings.score.n, served, settings.in_order_of_score)
    problems |= item_problems(lists, promised) | place_problems(lists, promised)
    problems |= arm_problems(lists, settings.experiment, _versions(manifest))
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


def _versions(manifest: Manifest) -> dict[str, tuple[str, str]]:
    """Versions of retrieval model and ranker of each arm of a test."""
    arms = manifest.extra.get("arms", {})
    return {
        arm: (of["models"]["retrieval_model"]["content_hash"], of["models"]["ranker"]["content_hash"])
        for arm, of in arms.items()
    }


def _promised(work: Work) -> Promised:
    from pyspark.sql import functions as F

    store, inputs = work.store, work.inputs
    known = store.read(work.spark, inputs["item_ids"]).select(c.ITEM_ID, F.col(c.INDEX).alias(c.ITEM_INDEX))
    events = store.read(work.spark, inputs["interactions"]).join(known, on=c.ITEM_ID, how="left_semi")
    rules = store.read(work.spark, inputs["item_rules"]).join(known, on=c.ITEM_INDEX, how="inner")
    return Promised(work.settings, work.dt, events, rules, inputs["item_rules"].extra["longest"])


def _check_users(work: Work, manifest: Manifest, users: int) -> None:
    """Refuse a table that lost many users against the newest published one before it."""
    share = work.settings.publish.min_users_share
    earlier = work.store.latest_readable("top_n", work.dt)  # a torn pointer is about to be mended
    if earlier is None or earlier.run_id == manifest.run_id or work.store.damage(earlier):
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
    sections=("split", "cold", "rules", "diversity", "score", "experiment", "publish"),
    inputs=("interactions", "user_ids", "item_ids", "item_rules"),
    outputs=("top_n",),
    always=True,
)
