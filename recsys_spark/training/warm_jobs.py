"""Jobs of a warm night, made of those of a full one; and whether the champion's models can be gone on from at all."""

from __future__ import annotations

from datetime import date
from io import BytesIO
from typing import Any

import numpy as np

from recsys_spark import columns as c
from recsys_spark.columns import SECONDS_PER_DAY
from recsys_spark.config import Settings
from recsys_spark.cuts import Cut, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.stage import Plan, Work
from recsys_spark.streaming import Sample, count
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.champion import TRAINING, same_ids
from recsys_spark.tables.layout import index_size
from recsys_spark.training.carried import Field, carried, vocabulary_of
from recsys_spark.training.warm import FULL, Start, full, start_of

# settings of the retrieval model that may be others than the champion's: how long it learns, how fast, and where
_PACE = {
    "epochs", "refit_epochs", "batch_size", "learning_rate", "patience", "schedule", "warmup_share", "clip_norm",
    "exchange", "keep_checkpoints", "checkpoint_minutes", "read_timeout", "shard_users", "validation_users",
    "validation_k", "stop_on", "neumf", "ials",
}  # fmt: skip


def retrieval_start(work: Work) -> Start:
    """What the retrieval model of a night begins with."""
    start = start_of(work.store, work.settings, work.dt)
    if not start.champion:
        return start
    theirs = start.champion["retrieval_model"]
    try:
        _same_shape(theirs.extra["shape"], shape(work.settings))
        _fitting_cuts(theirs.extra["cuts"], cuts(work.dt, work.settings.split))
        item_stats_of(work.store, theirs)
        same_ids(work.store, work.spark, theirs, work.inputs)
    except (RecsysError, ValueError, KeyError) as error:
        return full(work.dt, f"the champion of {theirs.dt} cannot be gone on from: {error}")
    return start


def shape(settings: Settings) -> dict[str, Any]:
    """What must be the same of two retrieval models, so that one can go on from the other."""
    retrieval = settings.retrieval.model_dump(mode="json")
    kept = {name: value for name, value in retrieval.items() if name not in _PACE}
    return {**kept, "optimizer_state": settings.warm_start.optimizer_state}


def item_stats_of(store: TableStore, model: Manifest) -> Manifest:
    """Run of ``item_stats`` that a retrieval model was trained by."""
    found = store.manifest("item_stats", model.dt, model.inputs["item_stats"])
    if store.damage(found):
        raise RecsysError("files are missing or changed", store.storage.url(found.folder), "Train anew.")
    return found


def warm_retrieval(work: Plan, job: dict[str, Any], start: Start) -> dict[str, Any]:
    """The job of a warm night, made of that of a full one: fewer examples, a slower rate, and where it begins."""
    store, warm = work.store, work.settings.warm_start
    theirs = start.champion["retrieval_model"]
    samples = {}
    for each in cuts(work.dt, work.settings.split):
        newest = each.time - warm.recent_days * SECONDS_PER_DAY
        samples[each.name] = Sample(warm.replay, _salt(work.dt), min(newest, theirs.extra["cuts"][each.name]))
    begins = {
        "folder": theirs.folder,
        "cuts": theirs.extra["cuts"],
        "item_stats": item_stats_of(store, theirs).folder,
        "epochs": warm.epochs,
        "optimizer_state": warm.optimizer_state,
        "attributes": {side: _attributes(work, side) for side in ("user", "item")},
    }
    snapshots = _sampled(work, job["snapshots"], list(samples.values()))
    for snapshot in snapshots:
        snapshot["sample"] = samples[snapshot["cut"]].to_json()
    settings = {**job["settings"], "learning_rate": job["settings"]["learning_rate"] * warm.learning_rate}
    return {**job, "settings": settings, "snapshots": snapshots, "start": begins}


def pair_features(work: Plan) -> list[str]:
    """Columns of the examples that the ranker learns from, beside the fields of users and items."""
    found: list[str] = work.inputs["ranker_examples"].extra["numbers"]
    return found if work.settings.ranker.pair_features else []


def ranker_start(work: Work) -> Start:
    """What the ranker of a night begins with: where the retrieval model was trained anew, it is too."""
    store, settings = work.store, work.settings
    start = start_of(store, settings, work.dt)
    if not start.champion:
        return start
    if not settings.warm_start.ranker:
        return full(work.dt, "warm_start.ranker is false")
    if work.inputs["retrieval_model"].extra.get(TRAINING, {}).get("kind", FULL) == FULL:
        return full(work.dt, "the retrieval model was trained anew")
    theirs = start.champion["ranker"]
    try:
        spec = store.storage.read_json(f"{theirs.folder}/spec.json")
        job_fields = {"fields": fields_of(work), "numbers": pair_features(work)}
        for name, ours in job_fields.items():
            if spec[name] != ours:
                raise ValueError(f"it has other {name}")
        for name in ("dim", "hidden", "buckets"):
            if spec["spec"][name] != getattr(settings.ranker, name):
                raise ValueError(f"{name} was {spec['spec'][name]!r}, now it is {getattr(settings.ranker, name)!r}")
        _of_run(store, theirs, "vocabularies")
        same_ids(store, work.spark, theirs, work.inputs)
    except (RecsysError, ValueError, KeyError) as error:
        return full(work.dt, f"the champion of {theirs.dt} cannot be gone on from: {error}")
    return start


def fields_of(work: Plan) -> dict[str, dict[str, list[str]]]:
    """Fields of the ranker by side and form, as its job and its spec name them.

    Features by the form in which a model takes them; those with weights are among the codes too, and an id is the first
    of its side.
    """
    spec = work.store.storage.read_json(f"{work.inputs['feature_spec'].folder}/spec.json")
    found = {}
    for side in ("user", "item"):
        names = [feature.name for feature in getattr(work.settings.features, side) if feature.ranker]
        forms = {form: [name for name in names if spec[side][name]["form"] == form] for form in ("weighted", "dense")}
        codes = [name for name in names if name not in forms["dense"]]
        found[side] = {"codes": [*([c.INDEX] if side in work.settings.ranker.ids else []), *codes], **forms}
    return found


def warm_ranker(work: Plan, job: dict[str, Any], start: Start) -> dict[str, Any]:
    """The job of a warm night: a part of the rows, slower rates, and which row of the champion's each row goes on from.

    Rows are found by value: the same value may have another place in another night's table.
    """
    store, warm = work.store, work.settings.warm_start
    theirs = start.champion["ranker"]
    before, now = (_fields_with_values(work, manifest) for manifest in (theirs, None))
    rows, first = [np.zeros(0, np.int64)], 0
    for number, (old, new) in enumerate(zip(before, now, strict=True)):
        found = carried(old, new)
        rows.append(np.where(found >= 0, found + first, -1 - number))
        first += old.size
    buffer = BytesIO()
    np.savez(buffer, rows=np.concatenate(rows), sizes=np.array([old.size for old in before]))
    path = f"{job['scratch']}/carried.npz"
    store.storage.write_bytes(path, buffer.getvalue())
    sample = Sample(warm.ranker_share, _salt(work.dt))
    settings = dict(job["settings"])
    for name in ("learning_rate", "embedding_learning_rate"):
        settings[name] = settings[name] and settings[name] * warm.learning_rate
    files = {name: _some(work, job[name], sample) for name in ("train_files", "valid_files")}
    begins = {"folder": theirs.folder, "carried": path, "epochs": warm.epochs, "sample": sample.to_json()}
    return {**job, **files, "settings": settings, "start": begins}


def _some(work: Plan, files: list[list[Any]], sample: Sample) -> list[list[Any]]:
    """Files with the rows that belong to a sample; those without any are left out."""
    paths = {url: work.store.storage.relative(url) for url, _ in files}
    rows = count(work.store.storage, paths.values(), [sample])
    return [[url, rows[paths[url]][0]] for url, _ in files if rows[paths[url]][0]]


def _fields_with_values(work: Plan, model: Manifest | None) -> list[Field]:
    """Fields of the champion's ranker, or of tonight's: users' first, in the order of their rows."""
    store = work.store
    if model is None:
        runs = {name: work.inputs[name] for name in ("feature_spec", "vocabularies", "user_ids", "item_ids")}
    else:
        runs = {name: _of_run(store, model, name) for name in ("feature_spec", "vocabularies", "user_ids", "item_ids")}
    spec = store.storage.read_json(f"{runs['feature_spec'].folder}/spec.json")
    values = vocabulary_of(read_parquet(store.storage, runs["vocabularies"].folder))
    found = []
    for side, forms in fields_of(work).items():
        for name in forms["codes"]:
            if name == c.INDEX:
                found.append(Field(index_size(runs[f"{side}_ids"]), "id"))
            elif spec[side][name].get("kind") == "number":
                found.append(Field(int(spec[side][name]["size"]), "number"))
            else:
                found.append(Field(int(spec[side][name]["size"]), "value", values.get((side, name), {})))
    return found


def _of_run(store: TableStore, model: Manifest, table: str) -> Manifest:
    """Run of a table of featurize that a model was trained on; its tables have one run's name."""
    return store.manifest(table, model.dt, model.inputs["feature_spec" if table == "vocabularies" else table])


def _salt(dt: str) -> int:
    """Another one each night."""
    return date.fromisoformat(dt).toordinal()


def _sampled(work: Plan, snapshots: list[dict[str, Any]], samples: list[Sample]) -> list[dict[str, Any]]:
    """Snapshots with the rows of their files that belong to the sample of their cut; files without any are left out."""
    storage = work.store.storage
    paths = {url: storage.relative(url) for snapshot in snapshots for url, _, _ in snapshot["files"]}
    rows = count(storage, paths.values(), samples)
    found = []
    for place, snapshot in enumerate(snapshots):
        some = [[url, rows[paths[url]][place], group] for url, _, group in snapshot["files"]]
        found.append({**snapshot, "files": [each for each in some if each[1]], "all_files": snapshot["files"]})
    return found


def _attributes(work: Plan, side: str) -> dict[str, Any]:
    """Where the codes of users or items lie, by which new ones are told apart."""
    spec = work.store.storage.read_json(f"{work.inputs['feature_spec'].folder}/spec.json")[side]
    names = [name for name, state in spec.items() if state["form"] in ("codes", "weighted")]
    sizes = [int(spec[name]["size"]) for name in names]
    return {"folder": work.inputs[f"{side}_features"].folder, "names": names, "sizes": sizes}


def _same_shape(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if ours["model"] != "mf" or ours["fit"] != "gradient":
        name = ours["model"] if ours["model"] != "mf" else ours["fit"]
        raise ValueError(f"{name} always trains anew")
    for name in {**theirs, **ours}:
        if theirs.get(name) != ours.get(name):
            raise ValueError(f"{name} was {theirs.get(name)!r}, now it is {ours.get(name)!r}")


def _fitting_cuts(theirs: dict[str, int], ours: list[Cut]) -> None:
    if theirs.keys() != {each.name for each in ours}:
        raise ValueError("it has other cuts (split)")
    late = [each.name for each in ours if theirs[each.name] > each.time]
    if late:
        raise ValueError(f"its cut '{late[0]}' is later than tonight's, so that it knows what must be guessed (split)")
