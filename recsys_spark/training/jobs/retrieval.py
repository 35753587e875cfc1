"""Fits one snapshot of the retrieval model a cut: the first with early stopping, each later one on from there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.ragged import Rows
from recsys_spark.streaming import ExampleStream, shards
from recsys_spark.tables.arrays import read_parquet, save_array
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective
from recsys_spark.training.loop import Log, best_epoch, fit, repeatable
from recsys_spark.training.tasks.retrieval import COLUMNS, RetrievalTask, Validation


def run(job: dict[str, Any], storage: Storage, collective: Collective, log: Log) -> None:
    """Train all snapshots; rank 0 writes ``user_vectors.<cut>.npy``, ``item_vectors.<cut>.npy`` and ``curves.json``."""
    settings = Retrieval.model_validate(job["settings"])
    context = _Context(job, settings, storage, collective, log)
    validation: Validation | None = _validation(storage, job["validation"])
    task: RetrievalTask | None = None
    known: list[Any] = []
    curves: dict[str, list[dict[str, float]]] = {}
    for snapshot in job["snapshots"]:
        cut, anew = snapshot["cut"], settings.refit_epochs == 0
        if task is None or not anew or snapshot["files"] != known:  # else nothing has happened since the cut before
            earlier, task = task, context.task(snapshot, validation)
            epochs = None
            if earlier is not None:
                epochs = settings.refit_epochs or _passes(next(iter(curves.values())), task.metric)
                if not anew:
                    task.start_from(earlier)
            curves[cut] = context.fit(task, snapshot, epochs)
        known, validation = snapshot["files"], None  # later cuts have trained on the validation window
        if collective.rank == 0:
            for side, vectors in zip(("user", "item"), task.model.vectors(), strict=True):
                save_array(storage, f"{job['output']}/{side}_vectors.{cut}.npy", vectors.numpy())
    if collective.rank == 0:
        metric = "" if task is None else task.metric
        storage.write_json(f"{job['output']}/curves.json", {"metric": metric, "curves": repeatable(curves)})


@dataclass(frozen=True)
class _Context:
    """What all snapshots share."""

    job: dict[str, Any]
    settings: Retrieval
    storage: Storage
    collective: Collective
    log: Log

    def task(self, snapshot: dict[str, Any], validation: Validation | None) -> RetrievalTask:
        """A model that knows nothing yet but its cut's counts."""
        stats = read_parquet(self.storage, self.job["item_stats"], [("cut", "=", snapshot["cut"])])
        names = ("events", "recent_users", "earlier_users")
        counts = {name: np.zeros(self.job["items"], dtype=np.int64) for name in names}
        for name, values in counts.items():
            values[stats[c.ITEM_INDEX].to_numpy()] = stats[name].to_numpy()
        fresh = torch.from_numpy(counts["recent_users"] + 0.25 * counts["earlier_users"])
        prior = (fresh + 0.1).log().float() - _offset(fresh, self.settings)
        size = (self.job["users"], self.job["items"])
        return RetrievalTask(
            *size, counts["events"], prior, snapshot["time"], validation, self.settings, self.collective
        )

    def fit(self, task: RetrievalTask, snapshot: dict[str, Any], epochs: int | None) -> list[dict[str, float]]:
        """Train on this rank's examples of a snapshot."""
        settings, collective = self.settings, self.collective
        mine = shards([tuple(f) for f in snapshot["files"]], collective.size, settings.batch_size)[collective.rank]
        together = c.USER_INDEX if self.job["whole_users"] else None
        order = (settings.batch_size, settings.seed, collective.rank)
        stream = ExampleStream(mine, COLUMNS, *order, together=together)
        folder = f"{self.job['checkpoints']}/{snapshot['cut']}"
        checkpoints = Checkpoints(self.storage, folder, settings.keep_checkpoints)
        return fit(task, stream, collective, settings, checkpoints, self.log, f"retrieval {snapshot['cut']}", epochs)


def _passes(curve: list[dict[str, float]], metric: str) -> int:
    """Number of passes that was best at the first cut; all of them where there was nothing to validate on."""
    return best_epoch(curve, metric) if metric in curve[-1] else len(curve)


def _offset(fresh: Tensor, settings: Retrieval) -> float:
    """What the log of an item's popularity is over its trained bias, about."""
    if settings.loss != "bce":
        return 3.0
    drawn = settings.negative_weight * float(fresh.sum()) / max(1, int((fresh > 0).sum()))  # times it is a negative
    return math.log(max(drawn, 1e-6))


def _validation(storage: Storage, path: str) -> Validation:
    with np.load(BytesIO(storage.read_bytes(path))) as saved:
        seen = Rows(saved["seen_indptr"], saved["seen"])
        return Validation(saved["users"], seen, Rows(saved["truth_indptr"], saved["truth"]))
