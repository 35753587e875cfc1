"""What a training run holds in its checkpoints, and when a run may go on from one.

A checkpoint after an epoch holds weights, optimizer state and the curve: any number of ranks can go on from it. One
from within an epoch holds besides, for each rank, the state of its random generators and its share of the epoch's loss,
and the position in the stream: batches done. A rank that goes on from there skips them, so that batches, draws and
weights are those of a run that was never interrupted: bit for bit on one rank, and on several as far as sums over ranks
repeat their order of addition.

* The stream must be the same: files, rows, columns, batch size, seed. Anything else is an error with both values.
* With another number of ranks the position says nothing: batches are cut otherwise. The epoch that was interrupted
  then begins anew from the checkpoint after the last whole epoch, which is kept for that; so every row is still seen
  once an epoch.
* The weights of the best epoch are those of its checkpoint, which is kept as long as it is the best; no copy of them is
  held in memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from recsys_spark.errors import RecsysError
from recsys_spark.progress import say
from recsys_spark.training.checkpoint import Checkpoints, Saved
from recsys_spark.training.collective import Collective
from recsys_spark.training.task import Sharded, Stream, Task

_OF_RANKS = ("ranks", "steps")  # facts of a stream that follow from the number of ranks


class Pace:
    """When to write a checkpoint within an epoch: by rank 0's clock, at a step that all ranks agree on beforehand.

    A clock cannot be asked at every step without a message to all ranks. So rank 0 tells after how many steps, by the
    speed so far, the time will have come, and ranks meet again then: one small sum a checkpoint or so.

    Parameters
    ----------
    minutes : float
    collective : Collective
    """

    def __init__(self, minutes: float, collective: Collective) -> None:
        self.seconds, self.collective = 60.0 * minutes, collective
        self.steps, self.until, self.since = 0, 1, time.monotonic()

    def due(self) -> bool:
        """Count a step; the same answer on every rank, which all of them ask for after every step."""
        self.steps += 1
        self.until -= 1
        if self.until > 0:
            return False
        plan = torch.zeros(2, dtype=torch.float64)
        if self.collective.rank == 0:
            gone = time.monotonic() - self.since
            due = gone >= self.seconds
            left = self.seconds if due else self.seconds - gone
            plan = torch.tensor([float(due), max(1.0, left * self.steps / max(gone, 1e-9))], dtype=torch.float64)
        due, until = self.collective.sum(plan).tolist()
        self.until = math.ceil(min(until, 1e9))
        return bool(due)

    def restart(self) -> None:
        """A checkpoint was written."""
        self.steps, self.since = 0, time.monotonic()


@dataclass
class Run:
    """A training run: what it works with, and how far it is."""

    task: Task
    stream: Stream
    collective: Collective
    checkpoints: Checkpoints
    pace: Pace
    tag: str
    curve: list[dict[str, float]] = field(default_factory=list)  # whole epochs
    updates: int = 0  # steps of all epochs
    batches: int = 0  # steps of the epoch that has begun
    loss: float = 0.0  # of these steps on this rank, a sum
    weight: float = 0.0
    best: int | None = None  # place of the checkpoint with the best weights
    whole: int | None = None  # place of the checkpoint after the last whole epoch
    random: dict[str, Any] | None = None  # state of the generators within an epoch, when it is resumed

    @property
    def place(self) -> int:
        """Grows with every step and every epoch, even one without steps: the name of a checkpoint."""
        return self.updates + len(self.curve)

    def where(self) -> str:
        """For messages."""
        return f"rank {self.collective.rank}, {self.moment()}"

    def moment(self) -> str:
        """The same on every rank."""
        step = f"step {self.batches + 1}" if self.batches < len(self.stream) else "after the last step"
        return f"{self.tag} epoch {len(self.curve) + 1}, {step}"

    def mean_loss(self) -> float:
        """Of this rank, in the epoch that has begun."""
        return self.loss / max(self.weight, 1e-12)

    def end_step(self, loss: float, weight: float) -> None:
        """Note a step."""
        self.loss, self.weight = self.loss + loss, self.weight + weight
        self.batches, self.updates = self.batches + 1, self.updates + 1

    def end_epoch(self, point: dict[str, float], best: bool) -> None:
        """Note a whole epoch; its checkpoint is written next."""
        self.curve.append(point)
        self.batches, self.loss, self.weight = 0, 0.0, 0.0
        self.whole = self.place
        self.best = self.place if best else self.best

    def take_random(self) -> None:
        """Set the generators to where they were, once an epoch that is resumed has begun."""
        if self.random is None:
            return
        torch.set_rng_state(self.random["torch"])
        if "cuda" in self.random and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.random["cuda"])
        for name, generator in self.task.generators().items():
            generator.set_state(self.random["generators"][name])
        self.random = None


def save(run: Run) -> None:
    """Write a checkpoint of the run as it stands; every rank calls it at the same step."""
    stays = [step for step in (run.best, run.whole) if step is not None and step != run.place]
    facts = {
        "updates": run.updates,
        "batches": run.batches,
        "best": run.best,
        "whole": run.whole,
        "stream": run.stream.describe(),
    }
    common = {"weights": run.task.weights(), "state": run.task.state(), "curve": run.curve}
    run.checkpoints.save(run.place, common, _parts(run), run.collective, facts, stays)
    run.pace.restart()


def restore(run: Run) -> None:
    """Go on from the newest checkpoint that the run may go on from; every rank calls it.

    Raises
    ------
    RecsysError
        The newest whole checkpoint was made on another stream.
    """
    saved = run.checkpoints.newest(run.collective, lambda found: _unfit(run, found))
    if saved is not None:
        state, facts = saved.common(), saved.facts
        run.task.load(state["weights"], state["state"])
        if isinstance(run.task, Sharded):
            run.task.load_parts(saved.part)
        run.curve, run.updates, run.batches = state["curve"], facts["updates"], facts["batches"]
        run.best, run.whole = facts["best"], facts["whole"]
        if run.batches:
            mine = saved.part(_rank_key(run))
            run.loss, run.weight, run.random = mine["loss"], mine["weight"], mine["random"]
        if run.collective.rank == 0:
            inside = f", {run.batches} of {len(run.stream)} steps into the next" if run.batches else ""
            say(f"{run.tag}: resumed after epoch {len(run.curve)}{inside}")
    run.collective.barrier()  # nobody writes before all have read


def take_best(run: Run) -> None:
    """Load the weights of the best epoch; every rank calls it at the end.

    Raises
    ------
    RecsysError
        Its checkpoint is lost or torn; the next run sees that at its start and trains again from an earlier one.
    """
    if run.best is None or run.best == run.place:
        return
    run.collective.barrier()  # rank 0 may still be writing
    saved = run.checkpoints.at(run.best)
    if saved is None:
        raise RecsysError(
            f"the checkpoint of the best epoch, step {run.best}, is lost",
            run.checkpoints.storage.url(run.checkpoints.folder),
            "Run again: training goes on from an earlier checkpoint.",
        )
    run.task.load(saved.common()["weights"], None)
    if isinstance(run.task, Sharded):
        run.task.load_parts(saved.part)
    run.collective.barrier()  # nobody deletes before all have read


def _parts(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(run.task, Sharded):
        yield from run.task.parts()
    if run.batches:
        generators = {name: each.get_state() for name, each in run.task.generators().items()}
        random = {"torch": torch.get_rng_state(), "generators": generators}
        if torch.cuda.is_available():
            random["cuda"] = torch.cuda.get_rng_state()
        yield _rank_key(run), {"loss": run.loss, "weight": run.weight, "random": random}


def _rank_key(run: Run) -> str:
    return f"rank-{run.collective.rank:04d}"


def _unfit(run: Run, saved: Saved) -> str | None:
    """Why the run cannot go on from a whole checkpoint, though perhaps from an earlier one."""
    theirs, mine = saved.facts["stream"], run.stream.describe()
    names = [name for name in {**theirs, **mine} if name not in _OF_RANKS and theirs.get(name) != mine.get(name)]
    if names:
        told = "; ".join(f"{name} was {theirs.get(name)!r}, now it is {mine.get(name)!r}" for name in names)
        raise RecsysError(
            f"its batches were others ({told})",
            f"checkpoint {run.checkpoints.storage.url(saved.folder)}",
            "Give it the same ones, or delete the checkpoint's folder to begin anew.",
        )
    if saved.facts["batches"] and theirs["ranks"] != mine["ranks"]:
        return (
            f"it is from within an epoch of {theirs['ranks']} rank(s), now there are {mine['ranks']}; "
            "that epoch begins anew"
        )
    best = saved.facts["best"]
    if best in (None, saved.step):
        return None
    found = run.checkpoints.at(best)
    damage = "it is lost" if found is None else found.damage()
    return None if damage is None else f"the best epoch's weights are in step {best}: {damage}"
