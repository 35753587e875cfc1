"""Fits one snapshot of the retrieval model a cut: the first with early stopping, later ones on from there, or anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.errors import RecsysError
from recsys_spark.ragged import Rows
from recsys_spark.streaming import ExampleStream, shards
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective
from recsys_spark.training.loop import Log, best_epoch, fit, repeatable
from recsys_spark.training.tasks.neumf import NeuMFTask
from recsys_spark.training.tasks.retrieval import COLUMNS, RetrievalTask, Snapshot, Validation

MODELS: dict[str, Callable[..., Snapshot]] = {"mf": RetrievalTask, "neumf": NeuMFTask}

_WHOLE = 1 << 27  # numbers of the item vectors, up to which the whole catalogue may be each batch's negatives: 512 MiB


def run(job: dict[str, Any], storage: Storage, collective: Collective, log: Log) -> None:
    """Train all snapshots; rank 0 writes what each model saves at its cut, and ``curves.json``."""
    settings = Retrieval.model_validate(job["settings"])
    context = _Context(job, settings, storage, collective, log)
    validation: Validation | None = _validation(storage, job["validation"])
    task: Snapshot | None = None
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
            task.save(storage, job["output"], cut)
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

    def task(self, snapshot: dict[str, Any], validation: Validation | None) -> Snapshot:
        """A model that knows nothing yet but its cut's counts."""
        stats = read_parquet(self.storage, self.job["item_stats"], [("cut", "=", snapshot["cut"])])
        names = ("events", "recent_users", "earlier_users")
        counts = {name: np.zeros(self.job["items"], dtype=np.int64) for name in names}
        for name, values in counts.items():
            values[stats[c.ITEM_INDEX].to_numpy()] = stats[name].to_numpy()
        size = (self.job["users"], self.job["items"])
        if snapshot["files"] and not counts["events"].any():
            raise RecsysError(
                f"there are examples, but no item has an event before the cut '{snapshot['cut']}'",
                "table 'item_stats'",
                "Run featurize again with --force.",
            )
        if self.settings.negatives == 0 and size[1] * self.settings.dim > _WHOLE:
            raise RecsysError(
                f"the whole catalogue, {size[1]:,} items, is too much to compare each batch with",
                "setting 'retrieval.negatives' = 0",
                "Give a number: so many items are drawn for each batch.",
            )
        fresh = torch.from_numpy(counts["recent_users"] + 0.25 * counts["earlier_users"])
        prior = first_bias(fresh, torch.from_numpy(counts["events"]), self.settings)
        return MODELS[self.settings.model](
            *size, counts["events"], prior, snapshot["time"], validation, self.settings, self.collective
        )

    def fit(self, task: Snapshot, snapshot: dict[str, Any], epochs: int | None) -> list[dict[str, float]]:
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


def first_bias(fresh: Tensor, events: Tensor, settings: Retrieval) -> Tensor:
    """What an item's bias is about to be, from its popularity, float32 [items].

    For the logistic loss it is the logarithm of how often the item is taken over how often it is a negative; for the
    softmax and BPR, which do not change if all biases do, near 0 for an item of middling popularity.

    Parameters
    ----------
    fresh : float64 [items]
        Popularity of late.
    events : int64 [items]
        By which negatives are drawn.
    settings : Retrieval
    """
    log = (fresh + 0.1).log()
    if settings.loss == "squared":  # scores from 0 to 1
        return torch.zeros(len(fresh))
    if settings.loss != "bce":
        return (log - 3.0).float()
    power = settings.negative_power if settings.negatives else 0.0
    draws = torch.where(events > 0, events.double() ** power, 0.0)
    drawn = settings.negative_weight * fresh.sum() * draws / draws.sum().clamp_min(1e-12)
    return torch.where(events > 0, log - drawn.clamp_min(1e-6).log(), 0.0).float()


def _validation(storage: Storage, path: str) -> Validation:
    with np.load(BytesIO(storage.read_bytes(path))) as saved:
        seen = Rows(saved["seen_indptr"], saved["seen"])
        return Validation(saved["users"], seen, Rows(saved["truth_indptr"], saved["truth"]))
