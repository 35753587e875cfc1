"""Which process dies in which stage, and when: a function of the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile

from harness import STAGES

SEED, KILLS = 20240310, 210
LOCAL, CLUSTER = "local", "cluster"
TASKS = ("featurize", "candidates", "evaluate", "gate", "score")  # stages with tasks in Python workers
JAVA = ("clean", "featurize", "train-ranker", "gate", "publish")
RANKS = ("train-retrieval", "train-ranker")
EXECUTORS = tuple(stage for stage in STAGES if stage not in {"sources", *RANKS})  # stages with work on executors
CLUSTER_EVERY = 5  # one round of so many is on a cluster


@dataclass(frozen=True)
class Kill:
    """One blow.

    Parameters
    ----------
    number : int
        Place in the schedule, from 1.
    round : int
        Kills of a round fall on the same night, the earlier stages first.
    where : str
        ``local`` or ``cluster``.
    stage : str
    victim : str
        ``driver`` (the Python process), ``java`` (the driver's JVM), ``worker`` (a Python worker of Spark, or the
        daemon that forks them), ``rank`` (a training process), ``executor`` (an executor's JVM).
    moment : float
        When, as a part of the time that such a process has in the stage: 0 its begin, 1 its end.
    """

    number: int
    round: int
    where: str
    stage: str
    victim: str
    moment: float

    def __str__(self) -> str:
        return f"{self.number}: {self.victim} at {self.moment:.0%} of {self.stage} ({self.where}, round {self.round})"


def victims(where: str) -> list[tuple[str, str]]:
    """List the pairs of stage and victim that one round kills."""
    ranks = [(stage, "rank") for stage in RANKS for _ in range(2)]
    if where == CLUSTER:
        executors = [(stage, "executor") for stage in EXECUTORS]
        return [*executors, *ranks, *((stage, "driver") for stage in ("clean", "train-ranker", "publish"))]
    drivers = [*((stage, "driver") for stage in STAGES), *((stage, "java") for stage in JAVA)]
    workers = [(stage, "worker") for stage in TASKS for _ in range(3)]
    return [*drivers, *workers, *ranks]


def schedule(seed: int) -> Iterator[list[Kill]]:
    """Rounds of a seed, without end."""
    draw, number = random.Random(seed), count(1)
    for place in count():
        where = CLUSTER if place % CLUSTER_EVERY == CLUSTER_EVERY - 1 else LOCAL
        drawn = [(STAGES.index(stage), draw.random(), stage, victim) for stage, victim in victims(where)]
        yield [Kill(next(number), place, where, stage, victim, at) for _, at, stage, victim in sorted(drawn)]


def numbered(seed: int, numbers: list[int]) -> list[Kill]:
    """Kills of a seed by their numbers."""
    upto = takewhile(lambda kills: kills[0].number <= max(numbers, default=0), schedule(seed))
    return [kill for kills in upto for kill in kills if kill.number in numbers]


def few(kills: list[Kill], each: int) -> list[Kill]:
    """So many kills of each kind of victim out of a round, spread over its stages."""
    kinds = [[kill for kill in kills if kill.victim == victim] for victim in sorted({kill.victim for kill in kills})]
    chosen = [kind[place * len(kind) // each] for kind in kinds for place in range(each)]
    return sorted(chosen, key=lambda kill: kill.number)
