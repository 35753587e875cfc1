"""Fits one snapshot of the retrieval model a cut: the first with early stopping, each later one on from there."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import torch

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.ragged import Rows
from recsys_spark.streaming import ExampleStream, shards
from recsys_spark.tables.arrays import read_parquet, save_array
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective
from recsys_spark.training.loop import Log, fit, repeatable
from recsys_spark.training.tasks.retrieval import COLUMNS, RetrievalTask


def run(job: dict[str, Any], storage: Storage, collective: Collective, log: Log) -> None:
    """Train all snapshots; rank 0 writes ``user_vectors.<cut>.npy``, ``item_vectors.<cut>.npy`` and ``curves.json``."""
    settings = Retrieval.model_validate(job["settings"])
    validation = _validation(storage, job["validation"])
    task: RetrievalTask | None = None
    curves: dict[str, Any] = {}
    for snapshot in job["snapshots"]:
        tag = f"retrieval {snapshot['cut']}"
        earlier = task
        unseen = validation if earlier is None else None  # later cuts have trained on the validation window
        task = _task(job, snapshot, storage, unseen, settings, collective)
        if earlier is not None:
            task.start_from(earlier)
        mine = shards([tuple(f) for f in snapshot["files"]], collective.size, settings.batch_size)[collective.rank]
        stream = ExampleStream(mine, COLUMNS, settings.batch_size, settings.seed, collective.rank)
        checkpoints = Checkpoints(storage, f"{job['checkpoints']}/{snapshot['cut']}", settings.keep_checkpoints)
        epochs = settings.refit_epochs if earlier is not None else None
        curves[snapshot["cut"]] = fit(task, stream, collective, settings, checkpoints, log, tag, epochs)
        if collective.rank == 0:
            user, item = task.model.vectors()
            save_array(storage, f"{job['output']}/user_vectors.{snapshot['cut']}.npy", user.numpy())
            save_array(storage, f"{job['output']}/item_vectors.{snapshot['cut']}.npy", item.numpy())
    if collective.rank == 0:
        storage.write_json(
            f"{job['output']}/curves.json", {"metric": RetrievalTask.metric, "curves": repeatable(curves)}
        )


def _task(
    job: dict[str, Any],
    snapshot: dict[str, Any],
    storage: Storage,
    validation: tuple[np.ndarray[Any, np.dtype[np.int64]], Rows, Rows] | None,
    settings: Retrieval,
    collective: Collective,
) -> RetrievalTask:
    stats = read_parquet(storage, job["item_stats"], [("cut", "=", snapshot["cut"])])
    names = ("events", "recent_users", "earlier_users")
    counts = {name: np.zeros(job["items"], dtype=np.int64) for name in names}
    for name, values in counts.items():
        values[stats[c.ITEM_INDEX].to_numpy()] = stats[name].to_numpy()
    fresh = torch.from_numpy(counts["recent_users"] + 0.25 * counts["earlier_users"])
    prior = (fresh + 0.1).log().float() - 3.0  # about the size of a trained bias
    return RetrievalTask(
        job["users"], job["items"], counts["events"], prior, snapshot["time"], validation, settings, collective
    )


def _validation(storage: Storage, path: str) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Rows, Rows]:
    with np.load(BytesIO(storage.read_bytes(path))) as saved:
        seen = Rows(saved["seen_indptr"], saved["seen"])
        return saved["users"], seen, Rows(saved["truth_indptr"], saved["truth"])
