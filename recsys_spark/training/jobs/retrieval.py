"""Fits one snapshot of the retrieval model a cut: the first with early stopping, later ones on from there, or anew.

In a warm night each goes on from the champion's snapshot of the same cut, and sees a part of the examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys_spark import columns as c
from recsys_spark.config import Retrieval
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.ragged import Rows
from recsys_spark.streaming import ExampleStream, Sample, deal_groups, owned_shards, shards
from recsys_spark.tables.arrays import read_parquet
from recsys_spark.tables.storage import Storage
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective
from recsys_spark.training.kept import Kept, open_earlier
from recsys_spark.training.loop import Log, best_epoch, fit, repeatable
from recsys_spark.training.start import Attributes, start_from
from recsys_spark.training.tasks.ials import IALSTask
from recsys_spark.training.tasks.negatives import negative_shares
from recsys_spark.training.tasks.neumf import NeuMFTask
from recsys_spark.training.tasks.ranking import Validation
from recsys_spark.training.tasks.retrieval import RetrievalTask
from recsys_spark.training.tasks.snapshot import COLUMNS, Snapshot
from recsys_spark.training.user_rows import UserRows, read_buckets

TASKS: dict[tuple[str, str], type[RetrievalTask] | type[NeuMFTask] | type[IALSTask]] = {  # by model and fit
    ("mf", "gradient"): RetrievalTask,
    ("mf", "ials"): IALSTask,
    ("neumf", "gradient"): NeuMFTask,
}

_WHOLE = 1 << 27  # numbers of the item vectors, up to which the whole catalogue may be each batch's negatives: 512 MiB


def run(job: dict[str, Any], storage: Storage, collective: Collective, log: Log) -> None:
    """Train all snapshots; writes what the model saves at each cut, and ``curves.json``."""
    settings = Retrieval.model_validate(job["settings"]).in_passes()
    context = _Context(job, settings, storage, collective, log, holders(job, storage, settings, collective))
    validation: Validation | None = _validation(storage, job["validation"])
    if "start" in job:
        _run_warm(context, validation)
        return
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
                earlier = None  # and its memory
            elif collective.rank == 0 and collective.size > 1:
                say(f"retrieval: {task.describe()}")
            curves[cut] = context.fit(task, snapshot, epochs)
        known, validation = snapshot["files"], None  # later cuts have trained on the validation window
        task.save(storage, job["output"], cut, job["scratch"], context.held.of_user)
    context.write_curves("" if task is None else task.metric, curves)


def _run_warm(context: _Context, validation: Validation | None) -> None:
    """Train each snapshot on from the champion's; the figures of the first say how it is, and choose nothing."""
    job, curves, metric = context.job, dict[str, list[dict[str, float]]](), ""
    for snapshot in job["snapshots"]:
        task = context.task(snapshot, validation)
        curves[snapshot["cut"]] = context.fit(task, snapshot, job["start"]["epochs"])
        metric, validation = task.metric, None
        task.save(context.storage, job["output"], snapshot["cut"], job["scratch"], context.held.of_user)
    context.write_curves(metric, curves)


@dataclass(frozen=True, eq=False)
class Holders:
    """Who holds which user.

    Parameters
    ----------
    of_group : list of int
        Rank of each group of user buckets; empty where all ranks hold all users.
    of_user : int16 [users]
        Rank of each user; of the padding it is rank 0, though all have it.
    rows : UserRows
        Of this rank.
    bucket_of : uint16 [users]
        Bucket of each user.
    """

    of_group: list[int]
    of_user: NDArray[np.int16]
    rows: UserRows
    bucket_of: NDArray[np.uint16]


def holders(job: dict[str, Any], storage: Storage, settings: Retrieval, collective: Collective) -> Holders:
    """Deal the users out, the same way on every rank: bucket b belongs to group b modulo the number of groups."""
    groups, users = job["user_groups"], job["users"]
    bucket_of = read_buckets(storage, job["user_ids"], users, job["buckets"])
    if collective.size == 1 or not settings.shard_users or not _kind(settings).splits_users:
        return Holders([], np.zeros(users, np.int16), UserRows.of(bucket_of), bucket_of)
    rows = [0] * groups
    for _, count, group in job["snapshots"][-1]["files"]:  # the last one knows the files of all others
        rows[group] += count
    of_group = deal_groups(rows, collective.size)
    if collective.rank == 0 and collective.size > groups:
        say(f"retrieval: the users are in {groups} group(s), so only {groups} of {collective.size} ranks hold some")
    of_bucket = np.array(of_group, np.int16)[np.arange(job["buckets"]) % groups]
    of_user = of_bucket[bucket_of]
    of_user[c.PADDING_INDEX] = 0
    return Holders(of_group, of_user, UserRows.of(bucket_of, of_bucket == collective.rank), bucket_of)


@dataclass(frozen=True)
class _Context:
    """What all snapshots share."""

    job: dict[str, Any]
    settings: Retrieval
    storage: Storage
    collective: Collective
    log: Log
    held: Holders

    def task(self, snapshot: dict[str, Any], validation: Validation | None) -> Snapshot:
        """A model that knows nothing yet but its cut's counts."""
        counts, prior = self.popularity(self.job["item_stats"], snapshot["cut"])
        size = (self.job["users"], self.job["items"])
        if snapshot["files"] and not counts["events"].any():
            raise RecsysError(
                f"there are examples, but no item has an event before the cut '{snapshot['cut']}'",
                "table 'item_stats'",
                "Run featurize again with --force.",
            )
        if self.settings.fit == "gradient" and self.settings.negatives == 0 and size[1] * self.settings.dim > _WHOLE:
            raise RecsysError(
                f"the whole catalogue, {size[1]:,} items, is too much to compare each batch with",
                "setting 'retrieval.negatives' = 0",
                "Give a number: so many items are drawn for each batch.",
            )
        work = (self.settings, self.collective)
        kind, now = _kind(self.settings), snapshot["time"]
        task = kind(*size, counts["events"], prior, now, validation, *work, counts["users"], self.held.rows)
        if isinstance(task, RetrievalTask):
            task.kept = Kept(**self.job.get("kept", {}))
        return task

    def popularity(self, folder: str, cut: str) -> tuple[dict[str, NDArray[np.int64]], Tensor]:
        """Counts of the items before a cut, and the biases that follow from them."""
        stats = read_parquet(self.storage, folder, [("cut", "=", cut)])
        names = ("events", "users", "recent_users", "earlier_users")
        counts = {name: np.zeros(self.job["items"], dtype=np.int64) for name in names}
        for name, values in counts.items():
            values[stats[c.ITEM_INDEX].to_numpy()] = stats[name].to_numpy()
        fresh = torch.from_numpy(counts["recent_users"] + 0.25 * counts["earlier_users"])
        events, pairs = (torch.from_numpy(counts[name]) for name in ("events", "users"))
        return counts, first_bias(fresh, events, self.settings, pairs)

    def fit(self, task: Snapshot, snapshot: dict[str, Any], epochs: int | None) -> list[dict[str, float]]:
        """Train on this rank's examples of a snapshot."""
        settings, cut = self.settings, snapshot["cut"]
        sample = Sample(**snapshot["sample"]) if "sample" in snapshot else None
        stream = self._stream(snapshot["files"], sample)
        whole = stream if sample is None else self._stream(snapshot["all_files"], None)
        task.examples = partial(whole.epoch, 0, shuffle=False)
        if "start" in self.job and isinstance(task, RetrievalTask):
            self._start(task, snapshot, stream)
        checkpoints = Checkpoints(self.storage, f"{self.job['checkpoints']}/{cut}", settings.keep_checkpoints)
        batches = task.batches(stream)
        return fit(task, batches, self.collective, settings, checkpoints, self.log, f"retrieval {cut}", epochs)

    def _start(self, task: RetrievalTask, snapshot: dict[str, Any], stream: ExampleStream) -> None:
        """Begin with the champion's model of the cut."""
        start, cut = self.job["start"], snapshot["cut"]
        counts, prior = self.popularity(start["item_stats"], cut)
        trained, biases = counts["events"] > 0, prior if self.settings.bias else torch.zeros_like(prior)
        where = (self.storage, start["folder"], cut)
        earlier = open_earlier(*where, self.settings, biases, trained, start["optimizer_state"])
        users, items = (
            Attributes.read(self.storage, start["attributes"][side], self.job[f"{side}s"]) for side in ("user", "item")
        )
        new = start_from(task, earlier, users, items, self.held.bucket_of, stream.epoch(0, shuffle=False))
        if self.collective.rank == 0:
            rows = stream.shard.whole["rows"]
            say(f"retrieval {cut}: {rows:,} of {sum(count for _, count, _ in snapshot['all_files']):,} pairs, {new}")

    def _stream(self, files: list[list[Any]], sample: Sample | None) -> ExampleStream:
        """Batches of the files, or parts of files, that this rank reads."""
        settings, of_group = self.settings, self.held.of_group
        ranks, size = self.collective.size, settings.batch_size
        if of_group:
            dealt = owned_shards([(url, rows, group) for url, rows, group in files], of_group, ranks, size)
        else:
            dealt = shards([(url, rows) for url, rows, _ in files], ranks, size)
        together = c.USER_INDEX if self.job["whole_users"] else None
        order = (size, settings.seed, self.collective.rank)
        timeout = settings.read_timeout
        return ExampleStream(
            dealt[self.collective.rank], COLUMNS, *order, together=together, timeout=timeout, sample=sample
        )

    def write_curves(self, metric: str, curves: dict[str, list[dict[str, float]]]) -> None:
        """Write ``curves.json``, on the first rank."""
        if self.collective.rank == 0:
            content = {"metric": metric, "curves": repeatable(curves)}
            self.storage.write_json(f"{self.job['output']}/curves.json", content)


def _kind(settings: Retrieval) -> type[RetrievalTask] | type[NeuMFTask] | type[IALSTask]:
    return TASKS[settings.model, settings.fit]


def _passes(curve: list[dict[str, float]], metric: str) -> int:
    """Number of passes that was best at the first cut; all of them where there was nothing to validate on."""
    return best_epoch(curve, metric) if metric in curve[-1] else len(curve)


def first_bias(fresh: Tensor, events: Tensor, settings: Retrieval, pairs: Tensor | None = None) -> Tensor:
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
    pairs : int64 [items], optional
        By which a batch holds them; ``events`` where they are not given.
    """
    log = (fresh + 0.1).log()
    if settings.loss == "squared":  # scores from 0 to 1
        return torch.zeros(len(fresh))
    if settings.loss != "bce":
        return (log - 3.0).float()
    drawn = settings.negative_weight * fresh.sum() * negative_shares(events, settings, pairs)
    return torch.where(events > 0, log - drawn.clamp_min(1e-6).log(), 0.0).float()


def _validation(storage: Storage, path: str) -> Validation:
    with np.load(BytesIO(storage.read_bytes(path))) as saved:
        seen = Rows(saved["seen_indptr"], saved["seen"])
        return Validation(saved["users"], seen, Rows(saved["truth_indptr"], saved["truth"]))
