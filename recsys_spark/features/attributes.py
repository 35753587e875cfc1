"""Attributes of users and items as tables of codes and numbers, with what was fitted for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys_spark import columns as c
from recsys_spark.features import encode, ids
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def write_features(work: Work, *sides: tuple[DataFrame, DataFrame, DataFrame]) -> list[Manifest]:
    """Codes of all users and items, fitted on those with an event before the first cut: vocabularies, then the rest."""
    from pyspark.sql import functions as F

    store, settings = work.store, work.settings.features
    base = ids.longest(store, "vocabularies", work.dt)
    earlier = None if base is None else store.read(work.spark, base)
    written: list[Manifest] = []
    fitted: dict[str, encode.Fitted] = {}
    for side, (frame, index, seen) in zip(("user", "item"), sides, strict=True):
        features, key = (settings.user if side == "user" else settings.item), f"{side}_id"
        rows = index.select(c.INDEX, key).join(frame, on=key, how="left").persist()
        mine = None if earlier is None else earlier.where(F.col("side") == side)
        fitted[side] = encode.fit(rows.join(seen, on=c.INDEX, how="left_semi"), features, mine)
        label = F.coalesce(F.col(c.LABEL_TEXT), F.col(key)).alias(c.LABEL_TEXT)
        encoded = encode.encode(rows, features, fitted[side])
        encoded = encoded.join(rows.select(c.INDEX, label), on=c.INDEX, how="inner")
        written.append(store.write(encoded.orderBy(c.INDEX), f"{side}_features", work.stamp))
    vocabularies = store.write(encode.vocabularies(fitted), "vocabularies", work.stamp)
    ids.take_head(store, vocabularies, base)
    work.spark.catalog.clearCache()
    spec = {side: each.spec for side, each in fitted.items()}
    store.storage.write_json(f"{store.folder('feature_spec', work.stamp)}/spec.json", spec)
    return [vocabularies, *written, store.seal(None, "feature_spec", work.stamp)]
