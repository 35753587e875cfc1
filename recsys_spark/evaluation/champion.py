"""Whether tonight's tables can be ranked by the champion's models: its numbers must mean what they meant to it.

Ids and vocabularies are append-only, so that what a model knows is a part of what tonight's tables hold; anything else
that a code, an index or a column follows from is compared here, and the first difference is told.
"""

from __future__ import annotations

from typing import Any

from recsys_spark import columns as c
from recsys_spark.cuts import FINAL, TEST, cut
from recsys_spark.errors import RecsysError
from recsys_spark.scoring.pairs import feature_names
from recsys_spark.stage import Work
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import load_array
from recsys_spark.tables.champion import find_champion, same_ids

# what the codes of a feature follow from, beside the values: name in feature_spec, and in words
_ENCODING = {
    "kind": "kind",
    "form": "form",
    "encoding": "encoding",
    "within": "groups of bands",
    "hash_buckets": "hashed codes",
    "length": "values in a row",
}


def usable_champion(work: Work) -> tuple[dict[str, Manifest] | None, str]:
    """The champion's models, if tonight's tables can be ranked by them; else why not."""
    models, reason = find_champion(work.store, work.dt)
    if models is None:
        return None, reason
    try:
        _same_ranker(work, models["ranker"])
        _whole_vectors(work.store, models)
        _same_sources(work, models["content_model"])
        tested = models["retrieval_model"].extra.get("cuts", {}).get(TEST, 0)
        if tested > cut(work.dt, work.settings.split, TEST).time:
            raise ValueError("its test window began later than tonight's, so that it has learned from a part of that")
        same_ids(work.store, work.spark, models["retrieval_model"], work.inputs)
    except (ValueError, KeyError, RecsysError) as error:
        return None, f"the champion of {models['ranker'].dt} cannot be used: {error}"
    return models, ""


def other_codes(fields: dict[str, dict[str, list[str]]], theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first difference between two nights' encodings of a ranker's fields, in words; empty where there is none.

    Parameters
    ----------
    fields : dict
        Names of the ranker's fields by side and form.
    theirs, ours : dict
        Contents of ``feature_spec``: by side and feature. Of numbers in buckets the number of buckets is compared too;
        vocabularies may grow.
    """
    for side, forms in fields.items():
        for name in [*forms["codes"], *forms["dense"]]:
            if name == c.INDEX:
                continue
            before, now = theirs[side][name], ours[side][name]
            words = dict(_ENCODING)
            if now["kind"] == "number":
                words["size"] = "codes"
            for key, what in words.items():
                if before.get(key) != now.get(key):
                    told = [each.get(key) or "none" for each in (before, now)]
                    return f"the {side} feature '{name}' has other {what}: {told[0]} then, {told[1]} tonight"
    return ""


def _same_ranker(work: Work, ranker: Manifest) -> None:
    """See that the champion's ranker has tonight's fields and pair features, and that their codes mean the same."""
    store, settings = work.store, work.settings
    storage = store.storage
    spec = storage.read_json(f"{ranker.folder}/spec.json")
    ours = storage.read_json(f"{work.inputs['ranker'].folder}/spec.json")
    if spec["fields"] != ours["fields"] or spec["numbers"] != ours["numbers"]:
        raise ValueError("it was made for other features")
    if spec["numbers"] and spec["numbers"] != feature_names(settings.features, settings.candidates.further()):
        raise ValueError("it looks at other pair features")
    encodings = [
        storage.read_json(f"{store.manifest('feature_spec', each.dt, each.inputs['feature_spec']).folder}/spec.json")
        for each in (ranker, work.inputs["ranker"])
    ]
    if difference := other_codes(spec["fields"], *encodings):
        raise ValueError(difference)
    _same_vocabularies(work, ranker)


def _same_vocabularies(work: Work, ranker: Manifest) -> None:
    """See that a value which has a code in both nights has the same one; where the earlier table is gone, it has."""
    from pyspark.sql import functions as F

    store, ours = work.store, work.inputs["vocabularies"]
    run_id = ranker.inputs["feature_spec"]  # both are of one run of featurize
    theirs = next((each for each in store.runs("vocabularies", ranker.dt) if each.run_id == run_id), None)
    if theirs is None or theirs.content_hash == ours.content_hash:
        return
    key = ["side", "feature", "value"]
    old = store.read(work.spark, theirs).select(*key, F.col("code").alias("theirs"))
    both = store.read(work.spark, ours).select(*key, "code").join(old, on=key, how="inner")
    other = both.where("theirs != code").select("side", "feature").limit(1).collect()
    if other:
        raise ValueError(f"values of the {other[0]['side']} feature '{other[0]['feature']}' have other codes since")


def _whole_vectors(store: TableStore, models: dict[str, Manifest]) -> None:
    """See that there are vectors of the cuts that are needed, and that those of users and items go together."""
    retrieval, content = models["retrieval_model"], models["content_model"]
    if retrieval.extra.get("model", "mf") != "mf":
        raise ValueError("its retrieval model has no vectors")
    of_items = content if content.extra.get("items") else retrieval
    for name in (TEST, FINAL):
        paths = [f"{each.folder}/{side}_vectors.{name}.npy" for each, side in ((retrieval, "user"), (of_items, "item"))]
        if not all(store.storage.exists(path) for path in paths):
            raise ValueError(f"it has no snapshot of the cut '{name}'")
        users, items = (load_array(store.storage, path).shape[1] for path in paths)
        if users != items:
            raise ValueError(f"its vectors of the cut '{name}' have {users} numbers a user and {items} an item")


def _same_sources(work: Work, theirs: Manifest) -> None:
    """See that a champion's content vectors are there where tonight's settings ask for some, and mean the same."""
    settings, ours = work.settings, work.inputs["content_model"]
    for name in ("items", "new_items"):
        if bool(theirs.extra.get(name)) != bool(ours.extra.get(name)):
            raise ValueError("it was made with other settings of new items (cold)")
    if "content" in {*settings.candidates.further(), *settings.cold.chain}:
        missing = [at for at in (TEST, FINAL) if not work.store.storage.exists(f"{theirs.folder}/content.{at}.npy")]
        if missing:
            raise ValueError(f"it has no content vectors of the cut '{missing[0]}'")
