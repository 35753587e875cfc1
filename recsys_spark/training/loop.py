"""The training loop. It knows epochs, ranks and checkpoints; what is trained is behind ``training.task.Task``."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from recsys_spark.config import Training
from recsys_spark.errors import RecsysError
from recsys_spark.progress import say, track
from recsys_spark.training.checkpoint import Checkpoints
from recsys_spark.training.collective import Collective
from recsys_spark.training.health import NotFinite, error_of
from recsys_spark.training.resume import Pace, Run, restore, save, take_best
from recsys_spark.training.task import Sharded, Stream, Task

__all__ = ["Log", "Sharded", "Stream", "Task", "best_epoch", "fit", "repeatable"]


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
        Written after each epoch and every ``settings.checkpoint_minutes`` within one; found ones are resumed by all
        ranks (see ``training.resume`` for what must be the same).
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
        A loss, gradient or validation figure is not finite, on any rank; the checkpoints before it stay.
    """
    run = Run(task, stream, collective, checkpoints, Pace(settings.checkpoint_minutes, collective), tag)
    try:
        restore(run)
        last = epochs or settings.epochs
        while len(run.curve) < last and (epochs is not None or _since_best(run.curve, task.metric) < settings.patience):
            point = _one_epoch(run, last)
            _validate(run, point)
            run.end_epoch(point, best=epochs is not None or _is_best([*run.curve, point], task.metric))
            if collective.rank == 0:
                log(tag, len(run.curve), **point)
            save(run)
            if collective.rank == 0:
                text = " · ".join(f"{k} {v:,.4g}" for k, v in point.items() if k != "epoch")
                say(f"{tag} epoch {len(run.curve)}: {text}")
        take_best(run)
    except Exception as error:
        error.add_note(run.where())
        raise
    return run.curve


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


def _is_best(curve: list[dict[str, float]], metric: str) -> bool:
    """Whether the last epoch is the best so far; where there is nothing to validate on, it is."""
    return metric not in curve[-1] or best_epoch(curve, metric) == len(curve)


def _validate(run: Run, point: dict[str, float]) -> None:
    figures = run.task.validate()
    figure = figures.get(run.task.metric)
    if figure is not None and not math.isfinite(figure):
        raise RecsysError(
            f"the validation figure {run.task.metric} is {figure}",
            run.where(),
            "The last checkpoint is kept; look into the model's inputs and run again.",
        )
    point |= figures


def _one_epoch(run: Run, epochs: int) -> dict[str, float]:
    """Train the epoch that is next, or what is left of it."""
    epoch, stream, collective, first = len(run.curve), run.stream, run.collective, run.batches
    clock = _Clock(rows=stream.batch_size * collective.size)
    run.task.begin(epoch)
    run.take_random()
    what = f"{run.tag} epoch {epoch + 1}/{epochs}"
    steps = track(
        range(first, len(stream)), len(stream), what, show=collective.rank == 0, first=first,
        note=lambda: f"{clock.rate():,.0f} samples/s · loss {run.mean_loss():.4g} · waits {clock.wait_share():.0%}",
    )  # fmt: skip
    with closing(stream.epoch(epoch, skip=first)) as batches:
        for step in steps:
            with clock.waiting():
                batch = next(batches, None)
            if batch is None:
                raise RuntimeError(f"the stream gave {step} batches, {len(stream)} were promised")
            loss, weight = _step(run, batch, (epoch + step / len(stream)) / epochs)
            run.end_step(loss, weight)
            clock.steps += 1
            if step + 1 < len(stream) and run.pace.due():
                save(run)
        if next(batches, None) is not None:
            raise RuntimeError("the stream gave more batches than it has")
    sums = collective.sum(torch.tensor([run.loss, run.weight], dtype=torch.float64))
    return {
        "epoch": float(epoch + 1),
        "loss": float(sums[0] / sums[1].clamp_min(1e-12)),
        "samples_per_second": clock.rate(),
        "wait_share": clock.wait_share(),
    }


def _step(run: Run, batch: dict[str, Tensor], progress: float) -> tuple[float, float]:
    try:
        loss, weight = run.task.step(batch, progress)
    except NotFinite as bad:
        raise error_of(bad, run.collective, run.moment()) from bad
    if not math.isfinite(loss):  # of a task that does not look before it updates
        raise RecsysError(
            f"the loss is {loss}",
            run.where(),
            "The last checkpoint is kept; lower the learning rate and run again.",
        )
    return loss, weight


@dataclass
class _Clock:
    """Time of an epoch: all of it, and what went by until batches came."""

    rows: int  # of a step, on all ranks
    steps: int = 0
    waited: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        asked = time.monotonic()
        yield
        self.waited += time.monotonic() - asked

    def rate(self) -> float:
        """Rows a second."""
        return self.steps * self.rows / max(time.monotonic() - self.started, 1e-9)

    def wait_share(self) -> float:
        return self.waited / max(time.monotonic() - self.started, 1e-9)
