"""Fits the ranker: the number of epochs is chosen on the validation part, then that part is trained on too."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Ranker
from recsys_spark.models.deepfm import DeepFMSpec
from recsys_spark.models.fields import FieldTables, SideTables
from recsys_spark.progress import say
from recsys_spark.streaming import ExampleStream, Sample, sample_rows, shards
from recsys_spark.tables.arrays import field_arrays, read_parquet
from recsys_spark.tables.storage import Storage
from recsys_spark.training.carried import carry
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective
from recsys_spark.training.loop import Log, best_epoch, fit, repeatable
from recsys_spark.training.tasks.ranker import RankerTask


def run(job: dict[str, Any], storage: Storage, collective: Collective, log: Log) -> None:
    """Train; rank 0 writes ``model.safetensors``, ``spec.json`` and ``curves.json``.

    With ``choose_only`` in the job it ends with the curve of the first phase. A warm night has one phase: it goes on
    from the champion's weights, with the number of passes that the settings say.
    """
    settings = Ranker.model_validate(job["settings"])
    start = job.get("start")
    some = None if start is None else Sample(**start["sample"])
    weights = None if start is None else _carried(storage, start)
    fields = FieldTables(_side(storage, job, "user"), _side(storage, job, "item"))
    spec = _spec(job, settings, fields)
    columns = [c.USER_INDEX, c.ITEM_INDEX, c.TARGET, *([c.OFFSET] if settings.hard_negatives else []), *job["numbers"]]

    def stream(files: list[list[Any]]) -> ExampleStream:
        mine = shards([(url, rows) for url, rows in files], collective.size, settings.batch_size)[collective.rank]
        order = (settings.batch_size, settings.seed, collective.rank)
        return ExampleStream(mine, columns, *order, timeout=settings.read_timeout, sample=some)

    def task(files: list[list[Any]], validation: ExampleStream | None) -> RankerTask:
        sample = torch.zeros(0, 0)
        if job["numbers"] and start is None:
            rows = sample_rows(files[0][0], job["numbers"])
            sample = torch.from_numpy(np.stack([rows[name] for name in job["numbers"]], axis=1))
        return RankerTask(spec, fields, job["numbers"], sample, validation, settings, collective, weights)

    def checkpoints(phase: str) -> Checkpoints:
        return Checkpoints(storage, f"{job['checkpoints']}/{phase}", settings.keep_checkpoints)

    train, both = job["train_files"], [*job["train_files"], *job["valid_files"]]
    if start is not None:
        seen = both if settings.refit else train
        final = task(seen, None)
        curve = fit(final, stream(seen), collective, settings, checkpoints("warm"), log, "ranker", start["epochs"])
        _write(job, storage, collective, final, spec, {"train + valid" if settings.refit else "train": curve})
        return
    final = task(train, stream(job["valid_files"]))
    if collective.rank == 0 and collective.size > 1:
        say(f"ranker: {final.describe()}")
    curves = {"train": fit(final, stream(train), collective, settings, checkpoints("choose"), log, "ranker")}
    if job.get("choose_only"):
        if collective.rank == 0:
            _write_curves(job, storage, final.metric, curves)
        return
    if settings.refit:
        epochs = best_epoch(curves["train"], final.metric)
        final, refit = task(both, None), checkpoints("refit")
        again = fit(final, stream(both), collective, settings, refit, log, "ranker refit", epochs)
        curves["train + valid"] = again
    _write(job, storage, collective, final, spec, curves)


def _write(
    job: dict[str, Any],
    storage: Storage,
    collective: Collective,
    task: RankerTask,
    spec: DeepFMSpec,
    curves: dict[str, list[dict[str, float]]],
) -> None:
    """Write the result, on the first rank."""
    if collective.rank == 0:
        weights = {name: tensor.contiguous() for name, tensor in task.weights().items()}
        storage.write_bytes(f"{job['output']}/model.safetensors", save(weights))
        storage.write_json(f"{job['output']}/spec.json", {**job["describes"], "spec": spec.to_json()})
        _write_curves(job, storage, task.metric, curves)


def _carried(storage: Storage, start: dict[str, Any]) -> dict[str, Tensor]:
    """The champion's weights, with each row of the embedding tables where tonight's value has it."""
    weights = load(storage.read_bytes(f"{start['folder']}/model.safetensors"))
    with np.load(BytesIO(storage.read_bytes(start["carried"]))) as saved:
        rows, sizes = saved["rows"], saved["sizes"]
    for name in ("embedding.weight", "first.weight"):
        fields, numbers = weights[name][: sizes.sum()].numpy(), weights[name][sizes.sum() :]
        weights[name] = torch.cat([torch.from_numpy(carry(rows, sizes, fields)), numbers])
    return weights


def _spec(job: dict[str, Any], settings: Ranker, fields: FieldTables) -> DeepFMSpec:
    return DeepFMSpec(
        sizes=job["sizes"],
        lengths=fields.lengths,
        numbers=len(job["numbers"]),
        buckets=settings.buckets,
        dim=settings.dim,
        hidden=settings.hidden,
        dropout=settings.dropout,
        dense=fields.dense,
        embedding_dropout=settings.embedding_dropout,
    )


def _write_curves(
    job: dict[str, Any], storage: Storage, metric: str, curves: dict[str, list[dict[str, float]]]
) -> None:
    storage.write_json(f"{job['output']}/curves.json", {"metric": metric, "curves": repeatable(curves)})


def _side(storage: Storage, job: dict[str, Any], side: str) -> SideTables:
    features = read_parquet(storage, job[f"{side}_features"])
    return SideTables(*field_arrays(features, job["fields"][side], job[f"{side}s"]))
