"""Stages ``train-retrieval`` and ``train-ranker``: write the job, start the ranks, seal what they wrote."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_spark import columns as c
from recsys_spark.config import Settings
from recsys_spark.cuts import FINAL, cuts
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.stage import Plan, Stage, Work
from recsys_spark.tables import Manifest, TableStore
from recsys_spark.tables.arrays import load_array, read_parquet
from recsys_spark.tables.champion import TRAINING
from recsys_spark.tables.examples import group_of
from recsys_spark.tables.histories import UserBlock
from recsys_spark.tables.layout import index_size
from recsys_spark.tables.versions import BINDING
from recsys_spark.tracking import describe
from recsys_spark.training.launch import launch
from recsys_spark.training.warm import Start, decides
from recsys_spark.training.warm_jobs import (
    fields_of,
    pair_features,
    ranker_start,
    retrieval_start,
    shape,
    warm_ranker,
    warm_retrieval,
)

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


_ROWS_AT_ONCE = 100_000  # vectors of a row group


def train_retrieval(work: Work) -> list[Manifest]:
    """Fit the retrieval model once a cut; write the snapshots, and the last one's vectors as tables."""
    job, start = retrieval_job(work, _scratch(work)), retrieval_start(work)
    if start.champion:
        job = warm_retrieval(work, job, start)
    warm = work.settings.warm_start
    kept = {"rows": warm.enabled, "optimizer_state": warm.enabled and warm.optimizer_state}
    facts = _train(work, {**job, "kept": kept}, start)
    times = {each.name: each.time for each in cuts(work.dt, work.settings.split)}
    extra = {**_trained_on(work), **facts, "model": work.settings.retrieval.model, "cuts": times}
    extra["shape"] = shape(work.settings)
    model = work.store.seal(None, "retrieval_model", work.stamp, extra=extra)
    return [model, *[_vectors(work, side, job["output"]) for side in ("user", "item")]]


def retrieval_job(work: Plan, scratch: str) -> dict[str, Any]:
    """Job of the ranks that fit the retrieval model; ``scratch`` gets the validation's users, unless it has them."""
    settings, store = work.settings, work.store
    validation = f"{scratch}/validation.npz"
    if not store.storage.exists(validation):
        store.storage.write_bytes(validation, _validation(work))
    examples = work.inputs["examples"]
    snapshots, splits = [], ["train"]
    for each in cuts(work.dt, settings.split):
        files = [entry for split in splits for entry in _files(work, examples, f"{c.SPLIT}={split}/")]
        of_groups = [[url, rows, group_of(url)] for url, rows in files]
        snapshots.append({"cut": each.name, "time": each.time, "files": of_groups})
        splits.append(each.name)
    return {
        **_common(work, "retrieval", store.folder("retrieval_model", work.stamp)),
        "settings": settings.retrieval.model_dump(mode="json"),
        "whole_users": settings.features.whole_users,
        "validation": validation,
        "snapshots": snapshots,
        "item_stats": work.inputs["item_stats"].folder,
        "user_ids": work.inputs["user_ids"].folder,
        "user_groups": examples.extra["user_groups"],
        "buckets": settings.buckets,
        "scratch": scratch,
    }


def train_ranker(work: Work) -> list[Manifest]:
    """Fit the ranker on the candidates of the label windows, or on the labels given."""
    job, start = ranker_job(work, _scratch(work)), ranker_start(work)
    if start.champion:
        job = warm_ranker(work, job, start)
    facts = _train(work, job, start)
    return [work.store.seal(None, "ranker", work.stamp, extra={**_trained_on(work), **facts})]


def ranker_job(work: Plan, scratch: str) -> dict[str, Any]:
    """Job of the ranks that fit the ranker; a warm night puts what it needs into ``scratch``."""
    store, settings = work.store, work.settings
    examples = work.inputs["ranker_examples"]
    spec = store.storage.read_json(f"{work.inputs['feature_spec'].folder}/spec.json")
    fields = fields_of(work)  # the feature tables have the index as a column, so that an id is a field like others
    sizes = []
    for side in ("user", "item"):
        for name in fields[side]["codes"]:
            sizes.append(_size(work, f"{side}_ids") if name == c.INDEX else spec[side][name]["size"])
    given = examples.extra.get("labels") == c.GIVEN
    numbers = pair_features(work)
    describes = {
        "fields": fields,
        "numbers": numbers,
        "negative_share": 1.0 if given else settings.ranker.negative_share,
        "retrieval_version": work.inputs["retrieval_model"].content_hash,
    }
    job = {
        **_common(work, "ranker", store.folder("ranker", work.stamp)),
        "settings": settings.ranker.model_dump(mode="json"),
        "train_files": _files(work, examples, f"{c.SPLIT}=train/"),
        "valid_files": _files(work, examples, f"{c.SPLIT}=valid/"),
        "user_features": work.inputs["user_features"].folder,
        "item_features": work.inputs["item_features"].folder,
        "fields": fields,
        "sizes": sizes,
        "numbers": numbers,
        "describes": describes,
        "scratch": scratch,
    }
    for split in ("train", "valid"):
        if not job[f"{split}_files"]:
            raise RecsysError(f"no rows in split '{split}'", "table 'ranker_examples'", "Widen the windows.")
    return job


def choosing_part(job: dict[str, Any]) -> dict[str, Any]:
    """Part of a job by which settings are judged: it ends with the first curve that has validation figures."""
    part = {**job, "choose_only": True}
    return {**part, "snapshots": job["snapshots"][:1]} if "snapshots" in job else part


def _common(work: Plan, kind: str, output: str) -> dict[str, Any]:
    launch_settings = work.settings.launch
    storage = work.store.storage
    logs = storage.path(f"_logs/dt={work.dt}/{kind}-{work.stamp.run_id}") if storage.is_local else ""
    return {
        "kind": kind,
        "output": output,
        "launcher": launch_settings.launcher,
        "ranks": launch_settings.ranks,
        "threads": launch_settings.threads,
        "checkpoints": f"_checkpoints/{kind}-{_checkpoints_of(work)}",
        "log_folder": logs,
        "users": _size(work, "user_ids"),
        "items": _size(work, "item_ids"),
        "tracking": describe(work.settings, {"kind": kind, "date": work.dt, **_run_of(work)}),
    }


def _run_of(work: Plan) -> dict[str, str]:
    return {"run_id": work.stamp.run_id, "fingerprint": work.stamp.fingerprint, "code_version": work.stamp.code_version}


def _checkpoints_of(work: Plan) -> str:
    """Names what checkpoints follow from: the stage's fingerprint but for the ranks, whose number may change."""
    contents = {name: manifest.content_hash for name, manifest in work.inputs.items()}
    stamp, settings = work.stamp, work.settings
    order = [settings.buckets, settings.features.whole_users]
    follows_from = [stamp.stage, stamp.dt, stamp.settings_hash, contents, stamp.code_version, order]
    return hashlib.sha256(json.dumps(follows_from, sort_keys=True).encode()).hexdigest()[:32]


def _train(work: Work, job: dict[str, Any], start: Start) -> dict[str, Any]:
    """Run a job's ranks; gives what the manifest is to say of the training."""
    storage, scratch, kind = work.store.storage, _scratch(work), job["kind"]
    say(f"{kind}: {start.says}")
    checkpoints = f"{job['checkpoints']}/{start.name}"
    for name in storage.names(job["checkpoints"], "folder"):
        if name != start.name:
            say(f"{kind}: its checkpoints '{name}' had another beginning; they are deleted, and training begins anew")
            storage.delete_folder(f"{job['checkpoints']}/{name}")
    job_file = f"{scratch}/{kind}.json"
    storage.write_json(job_file, {**job, "checkpoints": checkpoints, "seconds": f"{scratch}/seconds.json"})
    launch(work.spark, work.settings.launch, storage.uri, job_file)
    facts = start.facts()
    facts[TRAINING]["seconds"] = storage.read_json(f"{scratch}/seconds.json")["seconds"]
    storage.delete_folder(job["checkpoints"])
    storage.delete_folder(scratch)
    return facts


def _scratch(work: Work) -> str:
    return f"_jobs/{work.stamp.stage}-{work.stamp.run_id}"


def _size(work: Plan, table: str) -> int:
    """Rows of the vector tables: one more than the largest index, whoever holds it or held it once."""
    return index_size(work.inputs[table])


def _trained_on(work: Work) -> dict[str, Any]:
    """Versions of the tables whose numbers the weights are bound to; scoring with others is refused."""
    names = BINDING if work.stamp.stage == RANKER_STAGE.name else ("user_ids", "item_ids")
    return {"trained_on": {name: each.content_hash for name, each in work.inputs.items() if name in names}}


def _files(work: Plan, manifest: Manifest, part: str) -> list[list[Any]]:
    """URL and rows of a split's files, in order of name."""
    return [
        [work.store.storage.url(f"{manifest.folder}/{entry.name}"), entry.rows]
        for entry in manifest.files
        if entry.name.startswith(part) and entry.rows
    ]


def _validation(work: Plan) -> bytes:
    """Users for the first snapshot's ranking: a stable sample with new items in the window after its cut."""
    first = cuts(work.dt, work.settings.split)[0]
    folder = work.inputs["histories"].folder
    block = UserBlock.from_arrow(read_parquet(work.store.storage, folder))
    seen, later = (
        block.before(first.time).distinct_items(),
        block.between(first.time, first.until).distinct_items(),
    )
    rows = np.array([r for r in range(len(block)) if len(seen.row(r)) and len(np.setdiff1d(later.row(r), seen.row(r)))])
    draw = np.random.default_rng(work.settings.retrieval.seed)
    rows = np.sort(draw.permutation(rows)[: work.settings.retrieval.validation_users]).astype(np.int64)
    kept = [seen.row(r) for r in rows], [np.setdiff1d(later.row(r), seen.row(r)) for r in rows]
    arrays: dict[str, Any] = {"users": block.users[rows].astype(np.int64)}
    for name, lists in zip(("seen", "truth"), kept, strict=True):
        arrays[name] = np.concatenate([np.zeros(0, np.int32), *lists]).astype(np.int32)
        arrays[f"{name}_indptr"] = np.cumsum([0, *[len(each) for each in lists]])
    buffer = BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _vectors(work: Work, side: str, folder: str) -> Manifest:
    """The last snapshot's vectors as a table for whoever wants them; of a model without vectors there are no rows."""
    storage, table = work.store.storage, f"{side}_vectors"
    values = np.zeros((0, 1), np.float32)
    if work.settings.retrieval.model == "mf":
        values = load_array(storage, f"{folder}/{side}_vectors.{FINAL}.npy")
    target = work.store.folder(table, work.stamp)
    schema = pa.schema([(c.INDEX, pa.int32()), (c.VECTOR, pa.list_(pa.float32()))])
    storage.make_folder(target)
    with (
        storage.fs.open_output_stream(storage.path(f"{target}/part-00000.parquet")) as stream,
        pq.ParquetWriter(stream, schema) as writer,
    ):
        for start in range(0, len(values), _ROWS_AT_ONCE):
            block = np.asarray(values[start : start + _ROWS_AT_ONCE])
            bounds = pa.array(np.arange(0, block.size + 1, block.shape[1], dtype=np.int32))
            lists = pa.ListArray.from_arrays(bounds, pa.array(block.reshape(-1)))
            index = pa.array(np.arange(start, start + len(block), dtype=np.int32))
            writer.write_table(pa.Table.from_arrays([index, lists], schema=schema))
    return work.store.seal(work.spark, table, work.stamp, len(values))


def _ranks(spark: SparkSession, settings: Settings, dt: str) -> dict[str, Any]:
    """The number of ranks changes the last digits of the weights, and so does what they begin with."""
    return {"ranks": settings.launch.ranks, **decides(TableStore(settings.root), settings, dt)}


def _ranks_and_order(spark: SparkSession, settings: Settings, dt: str) -> dict[str, Any]:
    """The content hash of the examples says nothing of their order."""
    return {**_ranks(spark, settings, dt), "whole_users": settings.features.whole_users}


def _attributes(settings: Settings) -> tuple[str, ...]:
    """What a warm night tells new users and items apart by."""
    return ("user_features", "item_features", "feature_spec") if settings.warm_start.enabled else ()


def _values(settings: Settings) -> tuple[str, ...]:
    """What a warm night finds the rows of a field's values by."""
    return ("vocabularies",) if settings.warm_start.enabled and settings.warm_start.ranker else ()


RETRIEVAL_STAGE = Stage(
    name="train-retrieval",
    does="matrix factorization or NeuMF, one snapshot a cut",
    run=train_retrieval,
    sections=("split", "retrieval", "warm_start"),
    inputs=("examples", "histories", "item_stats", "user_ids", "item_ids"),
    outputs=("retrieval_model", "user_vectors", "item_vectors"),
    sources=_ranks_and_order,
    also=_attributes,
)

RANKER_STAGE = Stage(
    name="train-ranker",
    does="DeepFM over the candidates of the label windows, or the labels given",
    run=train_ranker,
    sections=("split", "features", "ranker", "warm_start"),
    inputs=(
        "ranker_examples",
        "retrieval_model",
        "user_features",
        "item_features",
        "feature_spec",
        "user_ids",
        "item_ids",
    ),
    outputs=("ranker",),
    sources=_ranks,
    also=_values,
)
