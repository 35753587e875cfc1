"""The champion: the models that made the lists which readers saw before a day."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from recsys_spark import columns as c
from recsys_spark.errors import RecsysError
from recsys_spark.tables.manifest import Manifest
from recsys_spark.tables.store import TableStore

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

TRAINING = "training"  # key of a model's extra: how it was trained
MODELS = ("retrieval_model", "content_model", "ranker")  # content vectors go with the item vectors


def named(models: dict[str, Manifest]) -> dict[str, dict[str, str]]:
    """Models as a manifest's ``extra`` names them: their day, run and content."""
    return {
        table: {"dt": models[table].dt, "run_id": models[table].run_id, "content_hash": models[table].content_hash}
        for table in MODELS
    }


def resolve(store: TableStore, names: dict[str, Any]) -> dict[str, Manifest]:
    """Manifests of models that were named so.

    Raises
    ------
    RecsysError
        One is gone, or damaged.
    """
    found = {table: store.manifest(table, of["dt"], of["run_id"]) for table, of in names.items()}
    for manifest in found.values():
        if store.damage(manifest):
            where = store.storage.url(manifest.folder)
            raise RecsysError("files of the champion's model are missing or changed", where, "Publish a new one.")
    return found


def champion_before(store: TableStore, dt: str) -> dict[str, Manifest] | None:
    """Models that made the newest lists of an earlier day; None before the first ones, or where they are gone."""
    return find_champion(store, dt)[0]


def find_champion(store: TableStore, dt: str) -> tuple[dict[str, Manifest] | None, str]:
    """``champion_before``, and why there is none: a night whose champion is lost is not a first night."""
    until = (date.fromisoformat(dt) - timedelta(days=1)).isoformat()
    try:
        lists = store.latest_readable("top_n", until)
        if lists is None:
            return None, "there is no champion yet"
        names = lists.extra.get("models") or {
            table: {"dt": lists.dt, "run_id": lists.inputs[table]} for table in MODELS
        }
        return resolve(store, names), ""
    except RecsysError as error:
        return None, f"the champion is lost: {error.found} ({error.where})"
    except KeyError as error:
        return None, f"the champion is lost: its lists name no {error}"


def training_of(model: Manifest) -> str:
    """How a model was trained: warm or in full, why, and the seconds of its ranks; empty of what says nothing of it."""
    told = model.extra.get(TRAINING)
    return f"{told['says']} ({told.get('seconds', 0.0):,.1f} s of training)" if told else ""


def same_ids(store: TableStore, spark: SparkSession, model: Manifest, inputs: dict[str, Manifest]) -> None:
    """See that every index which a model was trained on is still the same user's, or item's.

    Raises
    ------
    ValueError
        It is not, or nobody can tell.
    """
    for table, version in model.extra.get("trained_on", {}).items():
        name = {"user_ids": c.USER_ID, "item_ids": c.ITEM_ID}.get(table)
        if name is None or version == inputs[table].content_hash:
            continue
        if table in model.inputs and inputs[table].extra.get("base") == model.inputs[table]:
            continue  # tonight's table was made by appending to theirs
        theirs = next((each for each in store.runs(table, model.dt) if each.content_hash == version), None)
        if theirs is None:
            raise ValueError(f"its table {table} is gone")
        old = store.read(spark, theirs).select(c.INDEX, name).withColumnRenamed(name, "theirs")
        both = store.read(spark, inputs[table]).select(c.INDEX, name).join(old, on=c.INDEX, how="inner")
        if both.where(f"theirs != {name}").limit(1).count():
            raise ValueError(f"indexes of {table} were given to others since")
