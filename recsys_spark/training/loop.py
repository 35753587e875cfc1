"""The training loop. It knows epochs, ranks and checkpoints; what is trained is behind ``Task``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from recsys_spark.config import Training
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say, track
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective


class Task(Protocol):
    """What is trained."""

    metric: str  # name of the validation figure that chooses the epoch; larger is better

    def begin(self, epoch: int) -> None:
        """Set all randomness of an epoch (from 0) from the seed, the epoch and the rank."""

    def step(self, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
        """Update once; return the sum of the loss over rows, and of their weights.

        ``progress`` is the share of all steps that are done, for a schedule of the learning rate.
        """

    def validate(self) -> dict[str, float]:
        """Validation figures, the same on every rank; none where there is nothing to validate on."""

    def weights(self) -> dict[str, Tensor]:
        """Trained tensors (not copies)."""

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs beside the weights."""

    def load(self, weights: dict[str, Tensor], state: dict[str, Any] | None) -> None:
        """Take weights back, and the state if given."""


class Stream(Protocol):
    """Batches of this rank; the same number on every rank."""

    batch_size: int

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterable[dict[str, Tensor]]:
        """Batches of a pass."""


class Log(Protocol):
    """Takes the curves, on the first rank."""

    def __call__(self, tag: str, step: int, **values: float) -> None:
        """Note the values of an epoch."""


def fit(
    task: Task,
    stream: Stream,
    collective: Collective,
    settings: Training,
    checkpoints: Checkpoints,
    log: Log,
    tag: str,
    epochs: int | None = None,
) -> list[dict[str, float]]:
    """Train until the validation figure is no better for ``settings.patience`` epochs; keep the best weights.

    Parameters
    ----------
    task : Task
    stream : Stream
    collective : Collective
    settings : Training
    checkpoints : Checkpoints
        Written by rank 0 after each epoch; found ones are resumed by all ranks.
    log : Log
    tag : str
        Name in the logs.
    epochs : int, optional
        Train exactly so many, without choosing by validation.

    Returns
    -------
    list of dict
        A curve point an epoch: epoch, loss, the metric, samples_per_second, wait_share.

    Raises
    ------
    RecsysError
        The loss of this rank is not finite; the checkpoints before it stay.
    """
    curve: list[dict[str, float]] = []
    best, best_weights = -math.inf, _copy(task.weights())
    found = checkpoints.load()
    collective.barrier()  # nobody writes before all have read
    if found is not None:
        task.load(found["weights"], found["state"])
        curve, best, best_weights = found["curve"], found["best"], found["best_weights"]
        if collective.rank == 0:
            say(f"{tag}: resumed after epoch {len(curve)}")
    last = epochs or settings.epochs
    while len(curve) < last and (epochs is not None or _since_best(curve, task.metric) < settings.patience):
        point = _one_epoch(task, stream, collective, len(curve), last, tag)
        figures = task.validate()
        figure = figures.get(task.metric)
        if figure is not None:
            if not math.isfinite(figure):
                raise RecsysError(
                    f"the validation figure {task.metric} is {figure}",
                    f"{tag}, epoch {len(curve) + 1}",
                    "The last checkpoint is kept; look into the model's inputs and run again.",
                )
            point |= figures
        curve.append(point)
        if epochs is not None or figure is None or figure > best:
            best, best_weights = figure or 0.0, _copy(task.weights())
        if collective.rank == 0:
            log(tag, len(curve), **point)
            checkpoints.save(len(curve), _state(task, curve, best, best_weights))
            say(f"{tag} epoch {len(curve)}: " + " · ".join(f"{k} {v:,.4g}" for k, v in point.items() if k != "epoch"))
    task.load(best_weights, None)
    return curve


def best_epoch(curve: list[dict[str, float]], metric: str) -> int:
    """Number of the epoch (from 1) with the best validation figure; the first of equal ones."""
    return max(range(len(curve)), key=lambda i: (curve[i][metric], -i)) + 1


def repeatable(curves: dict[str, list[dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """Curves without the figures of the machine, so that equal runs write equal files."""
    machine = ("samples_per_second", "wait_share")
    return {
        cut: [{k: v for k, v in point.items() if k not in machine} for point in curve] for cut, curve in curves.items()
    }


def _since_best(curve: list[dict[str, float]], metric: str) -> int:
    if not curve or metric not in curve[-1]:
        return 0  # nothing to validate on: every epoch is done
    return len(curve) - best_epoch(curve, metric)


def _one_epoch(
    task: Task, stream: Stream, collective: Collective, epoch: int, epochs: int, tag: str
) -> dict[str, float]:
    what = f"{tag} epoch {epoch + 1}/{epochs}"
    started = time.monotonic()
    waited = loss = weight = 0.0
    task.begin(epoch)
    batches = iter(stream.epoch(epoch))
    for step in track(range(len(stream)), len(stream), what, show=collective.rank == 0):
        asked = time.monotonic()
        batch = next(batches, None)
        if batch is None:
            raise RuntimeError(f"the stream gave {step} batches, {len(stream)} were promised")
        waited += time.monotonic() - asked
        step_loss, step_weight = task.step(batch, (epoch + step / len(stream)) / epochs)
        if not math.isfinite(step_loss):
            raise RecsysError(
                f"the loss is {step_loss} at step {step + 1}",
                f"{what}, rank {collective.rank}",
                "The last checkpoint is kept; lower the learning rate and run again.",
            )
        loss, weight = loss + step_loss, weight + step_weight
    if next(batches, None) is not None:
        raise RuntimeError("the stream gave more batches than it has")
    sums = collective.sum(torch.tensor([loss, weight], dtype=torch.float64))
    seconds = time.monotonic() - started
    rows = len(stream) * stream.batch_size * collective.size
    return {
        "epoch": float(epoch + 1),
        "loss": float(sums[0] / sums[1].clamp_min(1e-12)),
        "samples_per_second": rows / seconds,
        "wait_share": waited / seconds,
    }


def _state(task: Task, curve: list[dict[str, float]], best: float, best_weights: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "weights": task.weights(),
        "state": task.state(),
        "curve": curve,
        "best": best,
        "best_weights": best_weights,
    }


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
